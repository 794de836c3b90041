package server

import (
	"os"
	"runtime"
	"sync"
)

// diskWaiters is how many goroutines of a node wait for its disk nearly always under
// load: the one that commits to the log.
const diskWaiters = 1

// addProcessors lets as many goroutines run beside those that wait for the disk as
// would run without them. It is for the whole process, and an operator's GOMAXPROCS
// has the last word.
//
// To Go a goroutine in a write or a sync is one that runs. It keeps its place until the
// runtime's monitor has taken it away, and then waits for one when it comes back. From
// here on Go does not follow a change of the processors that the process may use.
var addProcessors = sync.OnceFunc(addDiskWaiters)

func addDiskWaiters() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + diskWaiters)
	}
}
