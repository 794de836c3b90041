package httpapi

import (
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/rlstore/rlstore/api"
)

// The JSON of the single take, by hand: with encoding/json it costs more than
// the rest of the edge. What is unusual is left to the standard library, so that
// there is one place that refuses and one that escapes; tests hold both ways
// against each other.

// parseTake reads a body that holds nothing but fields of t, each once, plain
// strings and whole numbers. False leaves the body to [decodeJSON], whether it
// is right or wrong; t means nothing then. The strings alias body.
func parseTake(body []byte, t *takeRequest) bool {
	p := plain{b: body}
	var f struct {
		policy, key, id string
		cost            int64
	}
	if !p.byte('{') {
		return false
	}
	for {
		name, ok := p.text()
		if !ok || !p.byte(':') {
			return false
		}
		var again bool
		switch name {
		case "policy":
			again = t.Policy != nil
			f.policy, ok = p.text()
			t.Policy = &f.policy
		case "key":
			again = t.Key != nil
			f.key, ok = p.text()
			t.Key = &f.key
		case "request_id":
			again = t.RequestID != nil
			f.id, ok = p.text()
			t.RequestID = &f.id
		case "cost":
			again = t.Cost != nil
			f.cost, ok = p.number()
			t.Cost = &f.cost
		default: // limits, max_wait_ms, or no field at all
			return false
		}
		if !ok || again {
			return false
		}
		if p.byte(',') {
			continue
		}
		if !p.byte('}') {
			return false
		}
		p.space()
		return p.i == len(p.b)
	}
}

// plain walks over JSON of the plainest kind.
type plain struct {
	b []byte
	i int
}

func (p *plain) space() {
	for p.i < len(p.b) && (p.b[p.i] == ' ' || p.b[p.i] == '\n' || p.b[p.i] == '\t' || p.b[p.i] == '\r') {
		p.i++
	}
}

// byte walks over c, if it comes next.
func (p *plain) byte(c byte) bool {
	p.space()
	if p.i == len(p.b) || p.b[p.i] != c {
		return false
	}
	p.i++
	return true
}

// text walks over a string without escapes. It aliases p.b.
func (p *plain) text() (string, bool) {
	if !p.byte('"') {
		return "", false
	}
	start, ascii := p.i, true
	for ; p.i < len(p.b); p.i++ {
		switch c := p.b[p.i]; {
		case c == '"':
			s := p.b[start:p.i]
			p.i++
			return unsafe.String(unsafe.SliceData(s), len(s)), ascii || utf8.Valid(s)
		case c == '\\' || c < ' ':
			return "", false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return "", false
}

// number walks over a whole number of at most 18 digits, which fit an int64.
func (p *plain) number() (n int64, ok bool) {
	p.space()
	start := p.i
	for p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9' {
		n = n*10 + int64(p.b[p.i]-'0')
		p.i++
	}
	digits := p.i - start
	return n, digits == 1 || digits > 1 && digits <= 18 && p.b[start] != '0'
}

// appendDecision appends what encoding/json makes of d, without a line's end.
func appendDecision(dst []byte, d *api.Decision) []byte {
	dst = append(dst, `{"allowed":`...)
	dst = strconv.AppendBool(dst, d.Allowed)
	dst = append(dst, `,"policy":`...)
	dst = appendText(dst, d.Policy)
	dst = append(dst, `,"key":`...)
	dst = appendText(dst, d.Key)
	dst = append(dst, `,"limit":`...)
	dst = appendValues(dst, d.Limit, d.Remaining, d.RetryAfterMS, d.ResetAfterMS)
	dst = append(dst, `,"mode":`...)
	dst = appendText(dst, d.Mode)
	dst = append(dst, `,"source":`...)
	dst = appendText(dst, d.Source)
	dst = append(dst, `,"policy_revision":`...)
	dst = strconv.AppendUint(dst, d.PolicyRevision, 10)
	for i := range d.Limits {
		if i == 0 {
			dst = append(dst, `,"limits":[`...)
		} else {
			dst = append(dst, ',')
		}
		l := &d.Limits[i]
		dst = append(dst, `{"name":`...)
		dst = appendText(dst, l.Name)
		dst = append(dst, `,"limit":`...)
		dst = appendValues(dst, l.Limit, l.Remaining, l.RetryAfterMS, l.ResetAfterMS)
		dst = append(dst, '}')
		if i == len(d.Limits)-1 {
			dst = append(dst, ']')
		}
	}
	dst = append(dst, `,"commit":{"shard":`...)
	dst = strconv.AppendUint(dst, uint64(d.Commit.Shard), 10)
	dst = append(dst, `,"index":`...)
	dst = strconv.AppendUint(dst, d.Commit.Index, 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendUint(dst, uint64(d.Commit.Offset), 10)
	dst = append(dst, `,"time_ns":`...)
	dst = strconv.AppendUint(dst, d.Commit.TimeNS, 10)
	dst = append(dst, `},"wait_ms":`...)
	dst = strconv.AppendInt(dst, d.WaitMS, 10)
	dst = append(dst, `,"shadowed":`...)
	dst = strconv.AppendBool(dst, d.Shadowed)
	dst = append(dst, `,"duplicate":`...)
	dst = strconv.AppendBool(dst, d.Duplicate)
	return append(dst, '}')
}

// appendValues appends a limit and the three fields that follow it.
func appendValues(dst []byte, limit, remaining, retryAfter, resetAfter int64) []byte {
	dst = strconv.AppendInt(dst, limit, 10)
	dst = append(dst, `,"remaining":`...)
	dst = strconv.AppendInt(dst, remaining, 10)
	dst = append(dst, `,"retry_after_ms":`...)
	dst = strconv.AppendInt(dst, retryAfter, 10)
	dst = append(dst, `,"reset_after_ms":`...)
	return strconv.AppendInt(dst, resetAfter, 10)
}

// appendText appends s as JSON. Anything but printable ASCII without quotes and
// backslashes is left to encoding/json.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return append(dst, encode(s)...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
