package httpapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/rlstore/rlstore/api"
)

// mediaType returns the request's content type, which must be one of allowed.
func mediaType(r *http.Request, allowed ...string) (string, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return "", api.NewProblem(api.UnsupportedMediaType, "the body has the content encoding %.80q; send it plain", enc)
	}
	given := r.Header.Get("Content-Type")
	for _, a := range allowed {
		if given == a { // as nearly always
			return a, nil
		}
	}
	media, params, err := mime.ParseMediaType(given)
	if err == nil {
		if cs, ok := params["charset"]; ok && !strings.EqualFold(cs, "utf-8") {
			return "", api.NewProblem(api.UnsupportedMediaType, "the body has the charset %.80q; only UTF-8 is supported", cs)
		}
		for _, a := range allowed {
			if media == a {
				return media, nil
			}
		}
	}
	hint := "add the header 'Content-Type: " + allowed[0] + "' (curl: -H 'Content-Type: " + allowed[0] + "')"
	if len(allowed) > 1 {
		hint += "; also supported: " + strings.Join(allowed[1:], ", ")
	}
	switch {
	case given == "":
		return "", api.NewProblem(api.UnsupportedMediaType, "the request has no content type; %s", hint)
	case media == "application/x-www-form-urlencoded":
		return "", api.NewProblem(api.UnsupportedMediaType, "the content type is %s, which is what curl -d sends on its own; %s", media, hint)
	}
	return "", api.NewProblem(api.UnsupportedMediaType, "the content type %.80q is not supported; %s", given, hint)
}

// readBody reads the whole body, of which there may be at most [api.MaxBody]
// bytes, whether its length was announced or not. The memory is the caller's.
func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > api.MaxBody {
		return nil, tooLarge()
	}
	// An announced length is believed only up to a page: the rest grows as it
	// comes, so that a header alone costs no memory.
	first := int64(512)
	if r.ContentLength >= 0 {
		first = min(r.ContentLength+1, 4096)
	}
	body := make([]byte, 0, first)
	for {
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > api.MaxBody:
			return nil, tooLarge()
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return nil, api.NewProblem(api.InvalidRequest, "the body broke off after %d bytes: %v", len(body), err)
		}
	}
}

// maxDrain bounds the bytes that are read of a body only to get the answer
// through.
const maxDrain = 4 * api.MaxBody

// drain reads and forgets what is left of the body of a request that is about
// to be refused. Many clients send all of a body before they read; closing on
// them takes the answer away, for what comes in then is reset. The server's
// timeout for reading bounds it, beside [maxDrain].
func drain(r *http.Request) {
	switch {
	case r.Header.Get("Expect") != "": // it waits for the status before it sends
	case r.ContentLength > maxDrain: // in vain
	default:
		io.CopyN(io.Discard, r.Body, maxDrain) // an error ends the body as well
	}
}

func tooLarge() error {
	return api.NewProblem(api.PayloadTooLarge, "the body has more than %d bytes; send less at once", api.MaxBody)
}
