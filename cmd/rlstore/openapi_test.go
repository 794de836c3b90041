package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/rlstore/rlstore"
	"github.com/rlstore/rlstore/api"
)

// openAPI is openapi.yaml, read as JSON's model.
type openAPI struct {
	t   testing.TB
	doc map[string]any
}

func readOpenAPI(t testing.TB) *openAPI {
	o := &openAPI{t: t}
	if err := yaml.Unmarshal(rlstore.OpenAPI, &o.doc); err != nil {
		t.Fatal(err)
	}
	return o
}

// at follows keys through mappings; nil if there is nothing.
func (o *openAPI) at(keys ...string) map[string]any {
	m := o.doc
	for _, k := range keys {
		m, _ = m[k].(map[string]any)
	}
	return m
}

// follow resolves a reference.
func (o *openAPI) follow(m map[string]any) map[string]any {
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	path, ok := strings.CutPrefix(ref, "#/")
	target := o.at(strings.Split(path, "/")...)
	if !ok || target == nil {
		o.t.Fatalf("openapi.yaml: nothing is at %q", ref)
	}
	return target
}

var templated = regexp.MustCompile(`\{([a-z]+)(:[^{}]*(\{[^{}]*\}[^{}]*)*)?\}`)

// openAPIPath is a route's template without patterns.
func openAPIPath(path string) string {
	return templated.ReplaceAllString(strings.ReplaceAll(path, api.PolicyName, "{name}"), "{$1}")
}

func TestOpenAPIHasEveryRouteAndNoOther(t *testing.T) {
	o := readOpenAPI(t)
	var have, documented []string
	for _, r := range api.Routes {
		have = append(have, r.Method+" "+openAPIPath(r.Path)+" "+r.Name)
	}
	for path, item := range o.at("paths") {
		for method, op := range item.(map[string]any) {
			op := op.(map[string]any)
			documented = append(documented, fmt.Sprint(strings.ToUpper(method), " ", path, " ", op["operationId"]))
			query := o.checkOperation(path, op)
			known := slices.Sorted(slices.Values(api.Queries[op["operationId"].(string)]))
			if slices.Sort(query); !slices.Equal(query, known) {
				t.Errorf("%s %s knows the parameters %v, and openapi.yaml %v", method, path, known, query)
			}
		}
	}
	slices.Sort(have)
	slices.Sort(documented)
	if !slices.Equal(have, documented) {
		t.Errorf("the routes are\n%s\nand openapi.yaml has\n%s", strings.Join(have, "\n"), strings.Join(documented, "\n"))
	}
}

// checkOperation checks that an operation names the parameters of its path, and
// what a problem looks like. It returns the parameters of the query.
func (o *openAPI) checkOperation(path string, op map[string]any) (query []string) {
	in := map[string]bool{}
	list, _ := op["parameters"].([]any)
	for _, p := range list {
		p := o.follow(p.(map[string]any))
		if p["in"] == "path" {
			in["{"+p["name"].(string)+"}"] = true
		}
		if p["in"] == "query" {
			query = append(query, p["name"].(string))
		}
		o.checkSchema(p["schema"].(map[string]any))
	}
	for _, name := range templated.FindAllString(path, -1) {
		if !in[name] {
			o.t.Errorf("%s: the parameter %s is missing", path, name)
		}
		delete(in, name)
	}
	if len(in) > 0 {
		o.t.Errorf("%s has no %v", path, in)
	}
	responses := op["responses"].(map[string]any)
	if responses["default"] == nil {
		o.t.Errorf("%s: there is no default response, which is a problem", path)
	}
	for _, r := range responses {
		content, _ := o.follow(r.(map[string]any))["content"].(map[string]any)
		for _, c := range content {
			o.checkSchema(c.(map[string]any)["schema"].(map[string]any))
		}
	}
	return query
}

// checkSchema fails on what validate does not look at: a rule that nothing checks
// is not there.
func (o *openAPI) checkSchema(s map[string]any) {
	known := []string{"$ref", "description", "default", "format", "type", "properties", "required", "additionalProperties",
		"items", "enum", "anyOf", "pattern", "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength"}
	for k := range s {
		if !slices.Contains(known, k) {
			o.t.Errorf("openapi.yaml: the keyword %q in %v is not checked", k, s)
		}
	}
}

func TestOpenAPIHasEveryProblemCode(t *testing.T) {
	o := readOpenAPI(t)
	var have, documented []string
	for _, c := range api.Codes {
		have = append(have, string(c.Code))
	}
	for _, c := range o.at("components", "schemas", "Code")["enum"].([]any) {
		documented = append(documented, c.(string))
	}
	slices.Sort(have)
	slices.Sort(documented)
	if !slices.Equal(have, documented) {
		t.Errorf("the codes are %v, and openapi.yaml has %v", have, documented)
	}
}

// TestOpenAPIHasEveryField compares the schemas with the Go types whose JSON they
// describe.
func TestOpenAPIHasEveryField(t *testing.T) {
	o := readOpenAPI(t)
	types := map[string]any{
		"TakeRequest": api.TakeRequest{}, "BatchRequest": api.BatchRequest{}, "KeyRequest": api.KeyRequest{}, "RefundRequest": api.RefundRequest{},
		"Decision": api.Decision{}, "LimitState": api.LimitState{}, "Commit": api.Commit{}, "PeekResponse": api.PeekResponse{},
		"RefundResponse": api.RefundResponse{}, "ResetResponse": api.ResetResponse{}, "BatchResponse": api.BatchResponse{},
		"ReservationRequest": api.ReservationRequest{}, "ReservationResponse": api.ReservationResponse{}, "SettleRequest": api.SettleRequest{},
		"SettleResponse": api.SettleResponse{}, "PermitRequest": api.PermitRequest{}, "PermitResponse": api.PermitResponse{},
		"RenewRequest": api.RenewRequest{}, "RenewResponse": api.RenewResponse{}, "ReleaseResponse": api.ReleaseResponse{},
		"ExplainRequest": api.ExplainRequest{}, "Explanation": api.Explanation{},
		"Limit": api.Limit{}, "Policy": api.Policy{}, "PolicyDocument": api.Policy{}, "PolicyList": api.PolicyList{},
		"OverrideList": api.OverrideList{}, "PolicyRevision": api.PolicyRevision{}, "RevisionList": api.RevisionList{}, "RevertRequest": api.RevertRequest{},
		"Enforcement": api.Enforcement{}, "Cluster": api.Cluster{}, "Node": api.ClusterNode{}, "Shard": api.ShardStatus{}, "Replica": api.MemberStatus{},
		"SlotMap": api.SlotMap{}, "SlotRange": api.SlotRange{}, "MemberRequest": api.MemberRequest{}, "TransferRequest": api.TransferRequest{},
		"TransferResponse": api.TransferResponse{}, "Event": api.Event{}, "Version": api.Version{}, "FieldError": api.FieldError{}, "Problem": api.Problem{},
	}
	for name, v := range types {
		var have []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if tag != "" && tag != "-" {
				have = append(have, tag)
			}
		}
		documented := slices.Sorted(maps.Keys(o.at("components", "schemas", name, "properties")))
		slices.Sort(have)
		if have = slices.Compact(have); !slices.Equal(have, documented) {
			t.Errorf("%s has the fields %v, and openapi.yaml %v", name, have, documented)
		}
	}
}

// operation finds what answers a request. A literal part of a path goes before a
// parameter.
func (o *openAPI) operation(method, target string) (path string, op map[string]any) {
	target, _, _ = strings.Cut(target, "?")
	for template, item := range o.at("paths") {
		pattern := regexp.QuoteMeta(template)
		pattern = strings.ReplaceAll(pattern, `\{name\}`, `[^/]+(/[^/]+)?`)
		pattern = regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(pattern, `[^/]+`)
		found, ok := item.(map[string]any)[strings.ToLower(method)].(map[string]any)
		if ok && regexp.MustCompile("^"+pattern+"$").MatchString(target) && len(template) > len(path) {
			path, op = template, found
		}
	}
	return path, op
}

// checkExchange holds a request and its answer against the document.
func (o *openAPI) checkExchange(method, target, media string, body []byte, status int, answerMedia string, answer []byte) error {
	path, op := o.operation(method, target)
	if op == nil && status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
		return fmt.Errorf("openapi.yaml has no %s %s", method, target)
	}
	if op == nil {
		return o.checkBody(o.at("components", "responses", "Problem"), answerMedia, answer)
	}
	if status < 300 && len(body) > 0 {
		request, _ := op["requestBody"].(map[string]any)
		if err := o.checkBody(request, media, body); err != nil {
			return fmt.Errorf("the request: %w", err)
		}
	}
	response, ok := op["responses"].(map[string]any)[fmt.Sprint(status)].(map[string]any)
	if !ok {
		if status < 400 {
			return fmt.Errorf("%s %s can't answer %d", method, path, status)
		}
		response = op["responses"].(map[string]any)["default"].(map[string]any)
	}
	response = o.follow(response)
	if len(answer) == 0 {
		return nil
	}
	return o.checkBody(response, answerMedia, answer)
}

// checkBody holds a body against the content of a request or a response.
func (o *openAPI) checkBody(of map[string]any, media string, body []byte) error {
	media, _, _ = strings.Cut(media, ";")
	content, _ := of["content"].(map[string]any)
	c, ok := content[media].(map[string]any)
	if !ok {
		return fmt.Errorf("it is no %s", media)
	}
	if !strings.HasSuffix(media, "json") {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return err
	}
	return o.validate(c["schema"].(map[string]any), v, "")
}

// validate says how v is not what a schema describes.
func (o *openAPI) validate(s map[string]any, v any, at string) error {
	s = o.follow(s)
	o.checkSchema(s)
	if several, ok := s["anyOf"].([]any); ok {
		var errs []string
		for _, one := range several {
			err := o.validate(one.(map[string]any), v, at)
			if err == nil {
				return nil
			}
			errs = append(errs, err.Error())
		}
		return fmt.Errorf("%s: it is none of several: %s", at, strings.Join(errs, "; "))
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Errorf("%s: %v is not one of %v", at, v, enum)
	}
	if !o.hasType(s["type"], v) {
		return fmt.Errorf("%s: %v is not of the type %v", at, v, s["type"])
	}
	between := func(n int, low, high string) error {
		if l, ok := s[low].(int); ok && n < l {
			return fmt.Errorf("%s: %v is below %s %d", at, v, low, l)
		}
		if h, ok := s[high].(int); ok && n > h {
			return fmt.Errorf("%s: %v is above %s %d", at, v, high, h)
		}
		return nil
	}
	switch v := v.(type) {
	case string:
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			return fmt.Errorf("%s: %q does not match %s", at, v, p)
		}
		return between(len(v), "minLength", "maxLength")
	case json.Number:
		n, _ := v.Int64()
		return between(int(n), "minimum", "maximum")
	case []any:
		for i, e := range v {
			if err := o.validate(s["items"].(map[string]any), e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return between(len(v), "minItems", "maxItems")
	case map[string]any:
		properties, _ := s["properties"].(map[string]any)
		for name, e := range v {
			p, ok := properties[name].(map[string]any)
			if !ok {
				return fmt.Errorf("%s: there is no field %q", at, name)
			}
			if err := o.validate(p, e, at+"."+name); err != nil {
				return err
			}
		}
		required, _ := s["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				return fmt.Errorf("%s: the field %q is missing", at, name)
			}
		}
	}
	return nil
}

// hasType tells whether v is of a schema's type, or of one of several.
func (o *openAPI) hasType(want any, v any) bool {
	is := "null"
	switch v := v.(type) {
	case string:
		is = "string"
	case bool:
		is = "boolean"
	case []any:
		is = "array"
	case map[string]any:
		is = "object"
	case json.Number:
		if _, err := v.Int64(); err == nil {
			is = "integer"
		} else {
			is = "number"
		}
	}
	switch want := want.(type) {
	case nil: // an enum alone
		return true
	case []any:
		return slices.Contains(want, any(is))
	default:
		return want == is
	}
}
