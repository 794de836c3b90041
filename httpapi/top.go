package httpapi

import (
	"net/http"
	"strconv"

	"github.com/rlstore/rlstore/api"
)

// defaultTop is about a screen of keys.
const defaultTop = 20

func (e *edge) top(w http.ResponseWriter, r *http.Request) error {
	by, err := parameter(r, "by")
	if err != nil {
		return err
	}
	switch by {
	case "":
		by = api.TopDenied
	case api.TopDenied, api.TopTaken:
	default:
		return api.NewProblem(api.InvalidRequest, "by: it is %s or %s, not %.40q", api.TopDenied, api.TopTaken, by)
	}
	n := defaultTop
	if text, err := parameter(r, "n"); err != nil {
		return err
	} else if text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > api.MaxTop {
			return api.NewProblem(api.InvalidRequest, "n: it takes 1 to %d, not %.40q", api.MaxTop, text)
		}
	}
	node, err := parameter(r, "node")
	if err != nil {
		return err
	}
	if node != "" && node != "local" {
		return api.NewProblem(api.InvalidRequest, `node: it is "local", or is left out, not %.40q`, node)
	}
	top, err := e.Top(r.Context(), by, n, node == "local")
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, top)
	return nil
}
