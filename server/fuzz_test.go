package server

import (
	"bytes"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

// FuzzConfigFile: a configuration file is refused with a place for each fault,
// or it is what [Config.WriteYAML] writes and [Load] reads again.
func FuzzConfigFile(f *testing.F) {
	f.Add([]byte("node-id: n1\nshards: 3\njoin: [h1:1, h2:2]\nallow-inline-limits: true\n"))
	f.Add([]byte("join: h1:1,h2:2 # both\nbootstrap-expect: 3\nhttp-advertise: https://api.example\nraft-addr: '[::1]:9101'\n"))
	f.Add([]byte("shards: &n 0x10\nbootstrap-expect: *n\n"))
	f.Add([]byte("data_dir: x\nshards: '3'\nshards: 4\n"))
	f.Add([]byte("# nothing\n---\n...\n"))
	logger := slog.New(slog.DiscardHandler)
	read := func(text []byte) (Config, []error) {
		c := defaults()
		c.Logger, c.origins = logger, map[string]origin{}
		errs := c.readYAML("f.yaml", text)
		return c, errs
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, errs := read(text)
		for _, err := range errs {
			if !strings.HasPrefix(err.Error(), "f.yaml:") {
				t.Fatalf("the error %q has no place", err)
			}
		}
		c = c.derive()
		if err := errors.Join(append(errs, c.Validate())...); err != nil {
			return
		}
		var out bytes.Buffer
		if err := c.WriteYAML(&out); err != nil {
			t.Fatal(err)
		}
		again, errs := read(out.Bytes())
		again = again.derive()
		if err := errors.Join(append(errs, again.Validate())...); err != nil {
			t.Fatalf("%q is accepted, and then what is printed of it is refused: %v\n%s", text, err, out.String())
		}
		c.origins, again.origins = nil, nil
		if len(c.Join)+len(again.Join) == 0 {
			c.Join, again.Join = nil, nil
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("%q is read as %+v, and what is printed of it as %+v", text, c, again)
		}
	})
}
