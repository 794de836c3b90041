// Package load drives takes at a store and measures them: the engine of
// rlstore bench.
//
// # What is measured
//
// A call is one take, or one batch of takes; its latency is that of each take in
// it. In a closed loop every caller makes its next call when the last one is
// answered, and latency is counted from the call. A store that stalls then slows
// its own measurement down: it is asked nothing while it stalls. In an open loop
// calls have their time, one every batch/rate seconds, whatever the store does, and
// latency is counted from that intended time, also when no caller was free to keep
// it. So a stall is seen by every call that should have been made meanwhile.
//
// The latency of a call without a decision is not counted, its takes are, by their
// outcome: certainly not applied, or unknown.
//
// A run is a warm-up, whose figures are thrown away, and then the measurement. No
// call of the one reaches into the other. At the end calls under way are awaited,
// and their time belongs to the run: a rate is never better than what was answered.
//
// # What it costs
//
// The generator shares the machine with whatever else runs there. It allocates
// nothing for a take; the client may. It wakes for an intended time up to a
// millisecond late on an idle machine, and that counts as latency too.
package load
