package limiter

import "github.com/rlstore/rlstore/policy"

// isHot tells whether a key of a policy of mode auto is to be leased.
func (l *Limiter) isHot(set *policy.Set, key string) bool { return set.HotKeys[key] }
