package httpapi

import (
	"net/http"
	"strings"

	"github.com/rlstore/rlstore"
	"github.com/rlstore/rlstore/api"
)

const mediaText = "text/plain; charset=utf-8"

// livez tells that the process serves HTTP, and nothing about the cluster: a
// node without quorum is not cured by a restart.
func (e *edge) livez(w http.ResponseWriter, _ *http.Request) error {
	respondBytes(w, http.StatusOK, mediaText, []byte("ok\n"))
	return nil
}

// readyz tells whether to send work here. It lists every check if asked with
// ?verbose, and also when one fails.
func (e *edge) readyz(w http.ResponseWriter, r *http.Request) error {
	status, verdict := http.StatusOK, "readyz check passed"
	var b strings.Builder
	for _, c := range e.Ready() {
		if c.OK {
			b.WriteString("[+]" + c.Name + " ok\n")
			continue
		}
		status, verdict = http.StatusServiceUnavailable, "readyz check failed"
		why := c.Detail
		if why == "" {
			why = "no reason given"
		}
		b.WriteString("[-]" + c.Name + " failed: " + why + "\n")
	}
	b.WriteString(verdict + "\n")
	if status == http.StatusOK && !r.URL.Query().Has("verbose") {
		b.Reset()
		b.WriteString("ok\n")
	}
	if status != http.StatusOK {
		w.Header().Set("Retry-After", "1")
	}
	respondBytes(w, status, mediaText, []byte(b.String()))
	return nil
}

func (e *edge) serveMetrics(w http.ResponseWriter, r *http.Request) error {
	e.Metrics.ServeHTTP(w, r)
	return nil
}

func (e *edge) version(w http.ResponseWriter, _ *http.Request) error {
	respond(w, http.StatusOK, api.MediaJSON, e.Version)
	return nil
}

func (e *edge) cluster(w http.ResponseWriter, _ *http.Request) error {
	c := e.Cluster()
	// A list without elements is [], never null.
	if c.Nodes == nil {
		c.Nodes = []api.ClusterNode{}
	}
	if c.Shards == nil {
		c.Shards = []api.ShardStatus{}
	}
	respond(w, http.StatusOK, api.MediaJSON, c)
	return nil
}

func (e *edge) openAPI(w http.ResponseWriter, _ *http.Request) error {
	respondBytes(w, http.StatusOK, api.MediaYAML, rlstore.OpenAPI)
	return nil
}
