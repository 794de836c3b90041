package server

import (
	"runtime"
	"runtime/debug"

	"github.com/rlstore/rlstore/api"
)

// release is the version of this source tree; the module's version, where the
// build knows one, goes before it.
const release = "0.1.0-dev"

// Version is the build: that of the module when it was installed by version,
// else the source tree's.
func Version() api.Version {
	v := api.Version{Version: release, GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if m := info.Main.Version; m != "" && m != "(devel)" {
		v.Version = m
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	return v
}
