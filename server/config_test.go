package server

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func env(kv map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := kv[k]; return v, ok }
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	src := Sources{
		File: file(t, "node-id: from-file\nshards: 3\nlog-level: warn\njoin: [h1:1, h2:2]\nallow-inline-limits: true\n"),
		Env: env(map[string]string{
			"RLSTORE_SHARDS": "4", "RLSTORE_LOG_LEVEL": "error", "RLSTORE_DATA_DIR": "",
			"RLSTORE_PORT": "tcp://10.0.0.1:8101", // set by Kubernetes, none of ours
		}),
		Flags: map[string]string{"log-level": "debug"},
	}
	c, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeID != "from-file" || c.Shards != 4 || c.LogLevel != "debug" || c.DataDir != "./rlstore-data" ||
		!c.AllowInlineLimits || !reflect.DeepEqual(c.Join, []string{"h1:1", "h2:2"}) {
		t.Fatalf("loaded %+v", c)
	}

	var out bytes.Buffer
	if err := c.WriteYAML(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"node-id: from-file # file " + src.File + ":1\n",
		"data-dir: ./rlstore-data # default\n",
		"shards: 4 # env RLSTORE_SHARDS\n",
		"log-level: debug # flag --log-level\n",
		"join: ['h1:1', 'h2:2'] # file " + src.File + ":4\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line %q in:\n%s", want, out.String())
		}
	}
}

func TestWhatIsPrintedLoadsAsTheSameConfiguration(t *testing.T) {
	c, err := Load(Sources{Flags: map[string]string{
		"node-id": "1", "data-dir": "true: #x", "join": "h1:1, h2:2", "shards": "64",
		"http-addr": "[::]:80", "http-advertise": "[fe80::1]:80", "allow-inline-limits": "true",
	}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := c.WriteYAML(&out); err != nil {
		t.Fatal(err)
	}
	again, err := Load(Sources{File: file(t, out.String())})
	if err != nil {
		t.Fatalf("%v, in:\n%s", err, out.String())
	}
	c.origins, again.origins, c.Logger, again.Logger = nil, nil, nil, nil
	if !reflect.DeepEqual(c, again) {
		t.Fatalf("printed %+v\nloaded  %+v", c, again)
	}
}

func TestAFaultyFileStopsTheStartWithItsLine(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "node-id: n1\n\nfoo: 1\n", `:3: unknown key "foo"`},
		{"underscores", "node_id: n1\n", `:1: unknown key "node_id"; did you mean "node-id"?`},
		{"set twice", "shards: 1\nshards: 2\n", `:2: shards is set twice, first at `},
		{"number for a string", "data-dir: ./d\nnode-id: 1\n", `:2: node-id needs a string`},
		{"string for a number", "\nshards: six\n", `:2: shards needs a whole number`},
		{"fraction", "shards: 6.5\n", `:1: shards needs a whole number`},
		{"string for a bool", "allow-inline-limits: yes please\n", `:1: allow-inline-limits needs true or false`},
		{"numbers in a list", "join: [1, 2]\n", `:1: join needs a list of strings`},
		{"mapping for a list", "join: {a: b}\n", `:1: join needs a list of strings`},
		{"no value", "join:\n", `:1: join needs a list of strings`},
		{"out of range", "node-id: n1\nshards: 65\n", `:2: shards: 65 is out of range`},
		{"not a mapping", "- a\n", `:1: a configuration is a mapping`},
		{"two documents", "shards: 1\n---\nshards: 2\n", `a configuration is one YAML document`},
		{"not YAML", "shards: 1\na: b: c\n", `line 2`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := file(t, tt.text)
			_, err := Load(Sources{File: path})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("error %v, want %s%s", err, path, tt.want)
			}
		})
	}
	for _, text := range []string{"", "# nothing\n"} {
		if _, err := Load(Sources{File: file(t, text)}); err != nil {
			t.Errorf("an empty file %q: %v", text, err)
		}
	}
	if _, err := Load(Sources{File: "/no/such/file"}); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestEveryFaultOfAFileIsReported(t *testing.T) {
	_, err := Load(Sources{File: file(t, "a: 1\nb: 2\nshards: x\n")})
	if err == nil || len(strings.Split(err.Error(), "\n")) != 3 {
		t.Fatalf("error %v, want three lines", err)
	}
}

func TestAFaultySettingIsRefusedUnderTheNameItWasGivenBy(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags map[string]string
		want  string
	}{
		{"node id with a space", map[string]string{"node-id": "n 1"}, `--node-id: "n 1" is not a node id`},
		{"long node id", map[string]string{"node-id": strings.Repeat("n", 65)}, `is not a node id`},
		{"no data folder", map[string]string{"data-dir": ""}, `--data-dir: a node needs a folder`},
		{"address without a port", map[string]string{"http-addr": "localhost"}, `--http-addr: "localhost" is not host:port, such as 127.0.0.1:8101`},
		{"named port", map[string]string{"raft-addr": "localhost:http"}, `--raft-addr: "localhost:http" is not host:port`},
		{"port too large", map[string]string{"raft-addr": "localhost:70000"}, `is not host:port`},
		{"unspecified http address", map[string]string{"http-addr": "0.0.0.0:8101"}, `http-advertise: others cannot reach this node at "0.0.0.0:8101", which is every address it has: set --http-advertise to one of them`},
		{"unspecified raft address", map[string]string{"raft-addr": ":9101"}, `set --raft-advertise to one of them`},
		{"unspecified in IPv6", map[string]string{"raft-addr": "[::]:9101"}, `set --raft-advertise to one of them`},
		{"unspecified in IPv4 in IPv6", map[string]string{"raft-advertise": "[::ffff:0.0.0.0]:9101"}, `--raft-advertise: "[::ffff:0.0.0.0]:9101" is no address`},
		{"advertise unspecified", map[string]string{"http-advertise": "http://0.0.0.0:80"}, `--http-advertise: "0.0.0.0:80" is no address that anyone can reach`},
		{"advertise no host", map[string]string{"http-advertise": ":80"}, `is no address that anyone can reach`},
		{"advertise port 0", map[string]string{"http-advertise": "h:0"}, `has port 0`},
		{"advertise a path", map[string]string{"http-advertise": "http://h:80/v1"}, `has more than a scheme, a host and a port`},
		{"advertise another scheme", map[string]string{"http-advertise": "ftp://h:80"}, `is not host:port or a URL`},
		{"one port for two", map[string]string{"raft-addr": "127.0.0.1:8101"}, `--raft-addr: 127.0.0.1:8101 is taken by http-addr`},
		{"one port on all interfaces", map[string]string{"raft-addr": ":8101", "raft-advertise": "h:8101"}, `is taken by http-addr`},
		{"negative expectation", map[string]string{"bootstrap-expect": "-1"}, `--bootstrap-expect: -1 is negative`},
		{"join nobody", map[string]string{"join": "h1:1,0.0.0.0:2"}, `--join: "0.0.0.0:2" is no address`},
		{"join without a port", map[string]string{"join": "h1"}, `--join: "h1" is not host:port, such as 127.0.0.1:9101`},
		{"no shards", map[string]string{"shards": "0"}, `--shards: 0 is out of range; it needs to be 1 to 64`},
		{"shards in words", map[string]string{"shards": "six"}, `--shards: "six" is not a whole number`},
		{"not a bool", map[string]string{"allow-inline-limits": "maybe"}, `--allow-inline-limits: "maybe" is not true or false`},
		{"log level", map[string]string{"log-level": "loud"}, `--log-level: "loud" is not debug, info, warn or error`},
		{"log store", map[string]string{"log-store": "tape"}, `--log-store: "tape" is not bolt or wal`},
		{"log format", map[string]string{"log-format": "xml"}, `--log-format: "xml" is not text or json`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(Sources{Flags: tt.flags})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("error %v, want the one sentence %s", err, tt.want)
			}
		})
	}
	_, err := Load(Sources{Env: env(map[string]string{"RLSTORE_SHARDS": "99"})})
	if err == nil || !strings.HasPrefix(err.Error(), "RLSTORE_SHARDS: ") {
		t.Errorf("error %v does not name the variable", err)
	}
}

func TestAdvertisedAddressesFollowTheListeners(t *testing.T) {
	for _, tt := range []struct{ addr, advertise, want string }{
		{"10.0.0.1:80", "", "http://10.0.0.1:80"},
		{"0.0.0.0:80", "h1:80", "http://h1:80"},
		{"0.0.0.0:80", "https://h1/", "https://h1"},
		{"[::]:80", "[2001:db8::1]:80", "http://[2001:db8::1]:80"},
		{"127.0.0.1:0", "", ""}, // known once the listener has its port
	} {
		c := Config{HTTPAddr: tt.addr, HTTPAdvertise: tt.advertise}.WithDefaults()
		if err := c.Validate(); err != nil || c.HTTPAdvertise != tt.want {
			t.Errorf("%s and %q advertise %q (%v), want %q", tt.addr, tt.advertise, c.HTTPAdvertise, err, tt.want)
		}
	}
	c := Config{RaftAddr: "10.0.0.1:9"}.WithDefaults()
	if c.RaftAdvertise != "10.0.0.1:9" {
		t.Errorf("raft advertises %q", c.RaftAdvertise)
	}
}

func TestTheZeroConfigIsValidWithItsDefaults(t *testing.T) {
	c := Config{}.WithDefaults()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.Logger == nil || c.Shards != 6 || c.HTTPAdvertise != "http://127.0.0.1:8101" {
		t.Fatalf("defaults %+v", c)
	}
	loaded, err := Load(Sources{})
	if err != nil {
		t.Fatal(err)
	}
	c.Logger, loaded.Logger, loaded.origins = nil, nil, nil
	if !reflect.DeepEqual(c, loaded) {
		t.Fatalf("WithDefaults %+v\nLoad %+v", c, loaded)
	}
}

func TestTheLoggerHasTheConfiguredLevelAndFormat(t *testing.T) {
	var out bytes.Buffer
	log := Config{LogLevel: "warn", LogFormat: "json"}.NewLogger(&out)
	log.Info("quiet")
	log.Warn("loud")
	if s := out.String(); strings.Contains(s, "quiet") || !strings.Contains(s, `"msg":"loud"`) {
		t.Fatalf("logged %s", s)
	}
}

// TestAPlaceIsToldAsItIs: a file's name is no format.
func TestAPlaceIsToldAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "50%done.yaml")
	if err := os.WriteFile(path, []byte("shards: 999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Sources{File: path}); err == nil || !strings.HasPrefix(err.Error(), path+":1: shards: ") {
		t.Errorf("the error is %q", err)
	}
}
