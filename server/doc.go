// Package server is the assembly: it turns a [Config] into a running node, by
// joining the HTTP edge, the limiter, and consensus. `rlstore serve`, `rlstore
// dev` and the tests start the very same thing.
package server
