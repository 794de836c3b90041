// Overlay writes an overlay for the go command that makes simulations repeat
// exactly: with it, the Go runtime draws every random number that a goroutine
// of a synctest bubble can see from RLSTORE_SIM_SEED (which case of a select is
// taken, in which order timers of one moment fire, where the walk of a map
// begins, and all of math/rand), and never takes the processor away from a
// goroutine. With one processor and no garbage collection, two runs of a seed
// are then the same, step by step.
//
//	go run ./cluster-test/sim/overlay -o bin/overlay
//	go test -overlay bin/overlay/overlay.json ./cluster-test/sim
//
// It changes a few lines of copies of the runtime of the Go that runs it. Of a
// Go whose lines are others it says so, and writes nothing.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// change replaces text that stands exactly once in a file of package runtime.
type change struct{ file, old, new string }

var changes = []change{
	{"rand.go", `	globalRand.state.Init(*seed)
`, `	clear(seed[:]) // of every process the same: hashes of maps, and addresses
	seed[0] = 1
	globalRand.state.Init(*seed)
`},
	{"rand.go", `func rand() uint64 {
`, `func rand() uint64 {
	if true {
		return simulatedRand()
	}
`},
	// What else cheaprand serves, such as the eviction of caches, nobody sees.
	{"select.go", `		j := cheaprandn(uint32(norder + 1))
`, `		j := uint32(simulatedRand() % uint64(norder+1))
`},
	{"time.go", `			t.rand = cheaprand()
`, `			t.rand = uint32(simulatedRand())
`},
	{"sema.go", `	s.ticket = cheaprand() | 1
`, `	s.ticket = uint32(simulatedRand()) | 1
`},
	{"rand.go", `// rand32 is uint32(rand()), called from compiler-generated code.
`, `// simulatedState is used by one goroutine at a time: there is one processor.
var simulatedState uint64

// simulatedRand is a step of wyrand.
//
//go:nosplit
func simulatedRand() uint64 {
	simulatedState += 0xa0761d6478bd642f
	hi, lo := math.Mul64(simulatedState, simulatedState^0xe7037ed1a0b428db)
	return hi ^ lo
}

// simulatedSeed begins a simulation.
func simulatedSeed() {
	simulatedState = 0
	for _, c := range gogetenv("RLSTORE_SIM_SEED") {
		simulatedState = simulatedState*10 + uint64(c-'0')
	}
	// The scheduler looks into its global queue at every 61st tick.
	getg().m.p.ptr().schedtick = 0
}

// rand32 is uint32(rand()), called from compiler-generated code.
`},
	{"synctest.go", `	gp.bubble = bubble
	defer func() {
`, `	simulatedSeed()
	gp.bubble = bubble
	defer func() {
`},
	// Neither a goroutine that has run for long nor a system call gives the
	// processor away: both depend on how busy the machine is.
	{"proc.go", `func retake(now int64) uint32 {
`, `func retake(now int64) uint32 {
	if true {
		return 0
	}
`},
}

func main() {
	out := flag.String("o", "", "`folder` for the overlay")
	flag.Parse()
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err == nil {
		err = write(*out, strings.TrimSpace(string(goroot)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "overlay:", err)
		os.Exit(1)
	}
}

func write(out, goroot string) error {
	if out == "" {
		return fmt.Errorf("-o is missing: the folder to write to")
	}
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	files := map[string]string{} // by path, changed
	for _, c := range changes {
		path := filepath.Join(goroot, "src", "runtime", c.file)
		text, ok := files[path]
		if !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(b)
		}
		if n := strings.Count(text, c.old); n != 1 {
			return fmt.Errorf("%s of %s does not have the expected lines (%d times, not once):\n%s", path, runtime.Version(), n, c.old)
		}
		files[path] = strings.Replace(text, c.old, c.new, 1)
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	replace := map[string]string{}
	for path, text := range files {
		copied := filepath.Join(out, filepath.Base(path))
		if err := os.WriteFile(copied, []byte(text), 0o666); err != nil {
			return err
		}
		replace[path] = copied
	}
	b, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "overlay.json"), b, 0o666)
}
