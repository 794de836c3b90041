// Package policy reads policy documents: it checks them, fills in their
// defaults, and turns them into the plain numbers that state machines apply.
// It is pure: no clock, no network, no state.
//
// # Documents
//
// A document is YAML or JSON, which is YAML too. [Parse] reports every error in
// it at once, each with its line, its path and what to do about it. Nothing is
// accepted and then ignored, with one exception: a document may carry
// "revision" and "time_zone_rules", as what the server returns does, so that the
// answer to a GET can be edited and PUT back; the server sets both anew.
//
// A document that [Parse] accepted is normalized: every default is written out,
// so equal policies are equal values.
//
//	field           default         values
//	name            the address's   [a-z0-9][a-z0-9._-]{0,63}, or two of them as ns/name
//	limits          required        1 to 16
//	mode            strict          strict, leased, soft, auto; without a concurrency limit
//	lease_ttl       5s              duration, 100ms to 1h; of mode leased and auto only
//	sync_interval   1s              duration, 10ms to 1m; of mode soft only
//	hot_keys        none            up to 64 keys; of mode auto only
//	on_unavailable  closed          closed, open, local; without a concurrency limit
//	on_unavailable_for
//	                for good        duration, 1s to 8784h; of open and local only
//	enforcement     enforce         enforce, shadow, off
//	time_zone       UTC             a name of the IANA database, such as Europe/Berlin;
//	                                only with a fixed_window limit
//	headers         none            x-ratelimit
//	revision        ignored         any
//	time_zone_rules ignored         any
//
//	of a limit      default         values
//	name            "default" if it is the only one, else "limit-1" for the first, …
//	algorithm       token_bucket    token_bucket, fixed_window, sliding_window, concurrency
//	rate            required        1 to 2^31-1, and at most 10^9 a second; not of concurrency
//	per             required        duration, 1ms to 8784h (366 days), or month of a
//	                                fixed_window; not of concurrency
//	burst           rate            1 to 2^31-1; of a token_bucket only
//	max             required        1 to 2^31-1; of concurrency only
//
// YAML's anchors, aliases, tags and merge keys are refused: a policy should
// read the same to everyone. Documents are bounded ([MaxDocument]).
package policy
