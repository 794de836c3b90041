package httpapi

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Of every route, those without parameters included.
func TestAnUnknownParameterIsRefused(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Events = NewFeed() })
	for _, r := range api.Routes {
		path := strings.NewReplacer(api.PolicyName, "api", "{id}", "1").Replace(r.Path)
		says := "this route has none"
		if known := api.Queries[r.Name]; known != nil {
			says = "this route has " + strings.Join(known, ", ")
		}
		got := w.do(r.Method, path+"?deny_staus=429", "")
		wantProblem(t, got, api.InvalidRequest, says)
		if !strings.Contains(got.body, "deny_staus") {
			t.Errorf("%s: %s", path, got.body)
		}
	}
	wantProblem(t, w.do("GET", "/readyz?%zz", ""), api.InvalidRequest, "query: it can't be read")
	if got := w.do("GET", "/livez?verbose", ""); got.StatusCode != http.StatusOK {
		t.Errorf("/livez?verbose: %s", got.Status)
	}
}

func TestBadInputIsRefusedWithADetailThatNamesIt(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 513)
	for _, tc := range []struct {
		name, path, body string
		code             api.Code
		says             string
	}{
		{"empty body", "/v1/take", "", api.InvalidRequest, "empty"},
		{"blank body", "/v1/take", " \n ", api.InvalidRequest, "empty"},
		{"not JSON", "/v1/take", "hello", api.InvalidRequest, "not valid JSON"},
		{"cut short", "/v1/take", `{"policy":"api"`, api.InvalidRequest, "not valid JSON"},
		{"trailing data", "/v1/take", `{"policy":"api","key":"k"} {}`, api.InvalidRequest, "not valid JSON"},
		{"trailing junk", "/v1/take", `{"policy":"api","key":"k"}]`, api.InvalidRequest, "not valid JSON"},
		{"an array", "/v1/take", `[]`, api.InvalidRequest, "the body: it needs to be an object"},
		{"a string", "/v1/take", `"x"`, api.InvalidRequest, "the body: it needs to be an object"},
		{"a number", "/v1/take", `1`, api.InvalidRequest, "the body: it needs to be an object"},
		{"null", "/v1/take", `null`, api.InvalidRequest, "the body: null"},
		{"unknown field", "/v1/take", `{"policy":"api","key":"k","kost":1}`, api.InvalidRequest, "kost: there is no such field"},
		{"unknown field under its escape", "/v1/take", `{"policy":"api","key":"k","k\u006fst":1}`, api.InvalidRequest, "kost"},
		{"field in another case", "/v1/take", `{"policy":"api","Key":"k"}`, api.InvalidRequest, "Key: there is no such field"},
		{"field twice", "/v1/take", `{"policy":"api","key":"k","key":"l"}`, api.InvalidRequest, "key: the field is given twice"},
		{"field twice under an escape", "/v1/take", `{"policy":"api","key":"k","k\u0065y":"l"}`, api.InvalidRequest, "key: the field is given twice"},
		{"null policy", "/v1/take", `{"policy":null,"key":"k"}`, api.InvalidRequest, "policy: null"},
		{"null key", "/v1/take", `{"policy":"api","key":null}`, api.InvalidRequest, "key: null"},
		{"null cost", "/v1/take", `{"policy":"api","key":"k","cost":null}`, api.InvalidRequest, "cost: null"},
		{"null limits", "/v1/take", `{"limits":null,"key":"k"}`, api.InvalidRequest, "limits: null"},
		{"key of another type", "/v1/take", `{"policy":"api","key":7}`, api.InvalidRequest, "key: it needs to be a string"},
		{"policy of another type", "/v1/take", `{"policy":["api"],"key":"k"}`, api.InvalidRequest, "policy: it needs to be a string"},
		{"cost of another type", "/v1/take", `{"policy":"api","key":"k","cost":"1"}`, api.InvalidRequest, "cost: it needs to be a whole number"},
		{"cost true", "/v1/take", `{"policy":"api","key":"k","cost":true}`, api.InvalidRequest, "cost: it needs to be a whole number"},
		{"cost with a fraction", "/v1/take", `{"policy":"api","key":"k","cost":1.5}`, api.InvalidRequest, "cost: 1.5 is not a whole number"},
		{"cost 1.0", "/v1/take", `{"policy":"api","key":"k","cost":1.0}`, api.InvalidRequest, "cost: 1.0 is not a whole number"},
		{"cost with an exponent", "/v1/take", `{"policy":"api","key":"k","cost":1e3}`, api.InvalidRequest, "cost: 1e3 is not a whole number"},
		{"cost 0", "/v1/take", `{"policy":"api","key":"k","cost":0}`, api.InvalidRequest, "cost is 0"},
		{"negative cost", "/v1/take", `{"policy":"api","key":"k","cost":-1}`, api.InvalidRequest, "cost is -1"},
		{"cost over the bound", "/v1/take", `{"policy":"api","key":"k","cost":2147483648}`, api.InvalidRequest, "2147483648"},
		{"cost beyond 64 bits", "/v1/take", `{"policy":"api","key":"k","cost":99999999999999999999}`, api.InvalidRequest, "cost: 99999999999999999999 is out of range"},
		{"cost over the burst", "/v1/take", `{"policy":"api","key":"k","cost":201}`, api.CostExceedsBurst, "201"},
		{"largest cost, over the burst", "/v1/take", `{"policy":"api","key":"k","cost":2147483647}`, api.CostExceedsBurst, "2147483647"},
		{"no key", "/v1/take", `{"policy":"api"}`, api.InvalidRequest, "key: the field is missing"},
		{"empty key", "/v1/take", `{"policy":"api","key":""}`, api.InvalidRequest, "0 bytes"},
		{"key of 513 bytes", "/v1/take", `{"policy":"api","key":"` + long + `"}`, api.InvalidRequest, "513 bytes"},
		{"key with a control character", "/v1/take", `{"policy":"api","key":"a\u0000b"}`, api.InvalidRequest, "control character"},
		{"key with DEL", "/v1/take", "{\"policy\":\"api\",\"key\":\"a\x7fb\"}", api.InvalidRequest, "control character"},
		{"key with C1", "/v1/take", `{"policy":"api","key":"a\u0085b"}`, api.InvalidRequest, "control character"},
		{"broken UTF-8", "/v1/take", "{\"policy\":\"api\",\"key\":\"a\xff\"}", api.InvalidRequest, "not UTF-8"},
		{"half a surrogate pair", "/v1/take", `{"policy":"api","key":"a\ud800b"}`, api.InvalidRequest, "key: the text has half of a surrogate pair"},
		{"the other half", "/v1/take", `{"policy":"api","key":"\udc00"}`, api.InvalidRequest, "surrogate"},
		{"two first halves", "/v1/take", `{"policy":"api","key":"\ud800\ud800"}`, api.InvalidRequest, "surrogate"},
		{"empty request id", "/v1/take", `{"policy":"api","key":"k","request_id":""}`, api.InvalidRequest, "request_id"},
		{"request id of 65 bytes", "/v1/take", `{"policy":"api","key":"k","request_id":"` + long[:65] + `"}`, api.InvalidRequest, "request_id has 65 bytes"},
		{"a wait over a day", "/v1/take", `{"policy":"api","key":"k","max_wait_ms":86400001}`, api.InvalidRequest, "max_wait_ms is 86400001; it needs to be 0 to 86400000"},
		{"a negative wait", "/v1/take", `{"policy":"api","key":"k","max_wait_ms":-1}`, api.InvalidRequest, "max_wait_ms is -1"},
		{"a wait that is no number", "/v1/take", `{"policy":"api","key":"k","max_wait_ms":"1"}`, api.InvalidRequest, "max_wait_ms: it needs to be a whole number"},
		{"policy and limits", "/v1/take", `{"policy":"api","limits":[{"rate":1,"per":"1s"}],"key":"k"}`, api.InvalidRequest, "not both"},
		{"neither policy nor limits", "/v1/take", `{"key":"k"}`, api.InvalidRequest, "policy: the field is missing"},
		{"empty policy", "/v1/take", `{"policy":"","key":"k"}`, api.UnknownPolicy, ""},
		{"unknown policy", "/v1/take", `{"policy":"nope","key":"k"}`, api.UnknownPolicy, `"nope"`},
		{"wrong limits", "/v1/take", `{"limits":[{"rate":1,"per":"1s","brust":2}],"key":"k"}`, api.InvalidPolicy, "brust"},
		{"limits of another type", "/v1/take", `{"limits":"x","key":"k"}`, api.InvalidPolicy, "limits"},
		{"deny_status", "/v1/take?deny_status=500", `{"policy":"api","key":"k"}`, api.InvalidRequest, "deny_status"},
		{"deny_status twice", "/v1/take?deny_status=429&deny_status=403", `{"policy":"api","key":"k"}`, api.InvalidRequest, "deny_status"},
		{"deny_status of a batch", "/v1/take/batch?deny_status=429", `{"requests":[{"policy":"api","key":"k"}]}`, api.InvalidRequest, "deny_status"},
		{"consistency", "/v1/peek?consistency=eventual", `{"policy":"api","key":"k"}`, api.InvalidRequest, "consistency"},
		{"peek with a cost", "/v1/peek", `{"policy":"api","key":"k","cost":1}`, api.InvalidRequest, "cost: there is no such field"},
		{"stale peek of an unknown policy", "/v1/peek?consistency=stale", `{"policy":"nope","key":"k"}`, api.UnknownPolicy, ""},
		{"stale peek without a key", "/v1/peek?consistency=stale", `{"policy":"api"}`, api.InvalidRequest, "key"},
		{"reset with a request id", "/v1/reset", `{"policy":"api","key":"k","request_id":"x"}`, api.InvalidRequest, "request_id: there is no such field"},
		{"refund with a wait", "/v1/refund", `{"policy":"api","key":"k","max_wait_ms":0}`, api.InvalidRequest, "max_wait_ms: there is no such field"},
		{"refund of nothing", "/v1/refund", `{"policy":"api","key":"k","cost":0}`, api.InvalidRequest, "cost is 0"},
		{"batch without requests", "/v1/take/batch", `{}`, api.InvalidRequest, "requests: there are 0"},
		{"empty batch", "/v1/take/batch", `{"requests":[]}`, api.InvalidRequest, "requests: there are 0"},
		{"10,001 requests", "/v1/take/batch", `{"requests":[` + strings.Repeat(`{"policy":"api","key":"k"},`, 10_000) + `{"policy":"api","key":"k"}]}`, api.InvalidRequest, "10001"},
		{"null request", "/v1/take/batch", `{"requests":[null]}`, api.InvalidRequest, "requests[0]: null"},
		{"unknown field of a request", "/v1/take/batch", `{"requests":[{"policy":"api","key":"k"},{"x":1}]}`, api.InvalidRequest, "requests[1].x"},
		{"atomic of another type", "/v1/take/batch", `{"atomic":1,"requests":[]}`, api.InvalidRequest, "atomic: it needs to be true or false"},
		{"requests of another type", "/v1/take/batch", `{"requests":{}}`, api.InvalidRequest, "requests: it needs to be an array"},
		{"nested to the sky", "/v1/take", strings.Repeat("[", 20_000), api.InvalidRequest, "not valid JSON"},
		{"nested limits", "/v1/take", `{"key":"k","limits":` + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000) + `}`, api.InvalidPolicy, "limits"},
		{"5 MiB", "/v1/take", `{"policy":"api","key":"` + strings.Repeat("x", 5<<20) + `"}`, api.PayloadTooLarge, "4194304"},
	} {
		t.Run(tc.name, func(t *testing.T) { wantProblem(t, w.post(tc.path, tc.body), tc.code, tc.says) })
	}
	// What lies just within the bounds is fine.
	for name, tc := range map[string][2]string{
		"key of 512 bytes":         {"/v1/take", `{"policy":"api","key":"` + long[:512] + `"}`},
		"request id of 64 bytes":   {"/v1/take", `{"policy":"api","key":"k","request_id":"` + long[:64] + `"}`},
		"a surrogate pair":         {"/v1/take", `{"policy":"api","key":"\ud83d\ude00"}`},
		"white space":              {"/v1/take", " {\n\t\"policy\" : \"api\" ,\r\n \"key\" : \"k\" } \n"},
		"an escaped field name":    {"/v1/take", `{"policy":"api","k\u0065y":"k"}`},
		"10,000 requests":          {"/v1/take/batch", `{"requests":[` + strings.Repeat(`{"policy":"api","key":"k"},`, 9_999) + `{"policy":"api","key":"k"}]}`},
		"an explicit linearizable": {"/v1/peek?consistency=linearizable", `{"policy":"api","key":"k"}`},
	} {
		if r := w.post(tc[0], tc[1]); r.StatusCode != 200 {
			t.Errorf("%s: %s %.300s", name, r.Status, r.body)
		}
	}
}

func TestAReusedRequestIDIs422(t *testing.T) {
	w := newWorld(t)
	w.post("/v1/take", `{"policy":"api","key":"k","request_id":"x"}`)
	wantProblem(t, w.post("/v1/take", `{"policy":"api","key":"k","cost":2,"request_id":"x"}`), api.RequestIDReused, "x")
}

func TestABodyWithoutALengthIsBoundedToo(t *testing.T) {
	w := newWorld(t)
	for _, size := range []int{5 << 20, 1 << 30} {
		r, err := http.NewRequest("POST", w.server.URL+"/v1/take", io.MultiReader(strings.NewReader(`{"key":"`), io.LimitReader(endless{}, int64(size))))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", api.MediaJSON)
		resp, err := w.server.Client().Do(r)
		if err != nil {
			// The server may close before the client has sent all. What it
			// answered can be lost then, as HTTP/1.1 has it.
			t.Logf("%d bytes: %v", size, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%d bytes: %s", size, resp.Status)
		}
	}
	rec := httptest.NewRecorder()
	req := httptest.NewRequest("POST", "/v1/take", io.LimitReader(endless{}, 1<<40))
	req.Header.Set("Content-Type", api.MediaJSON)
	w.edge.ServeHTTP(rec, req)
	if rec.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("without an end: %d", rec.Code)
	}
}

// TestARefusalReachesAClientThatSendsAllBeforeItReads: Python's http.client is
// one of them.
func TestARefusalReachesAClientThatSendsAllBeforeItReads(t *testing.T) {
	w := newWorld(t)
	const size = 13 << 20 // more than the buffers between the two hold
	body := strings.Repeat("x", size)
	for name, tc := range map[string]struct{ head, body, status string }{
		"a length":       {"POST /v1/take HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 13631488", body, "413"},
		"chunks":         {"POST /v1/take HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked", "d00000\r\n" + body + "\r\n0\r\n\r\n", "413"},
		"no media type":  {"POST /v1/take HTTP/1.1\r\nContent-Length: 13631488", body, "415"},
		"no such route":  {"POST /v1/nothing HTTP/1.1\r\nContent-Length: 13631488", body, "404"},
		"another method": {"PUT /v1/take HTTP/1.1\r\nContent-Length: 13631488", body, "405"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", w.server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			if _, err := io.WriteString(conn, tc.head+"\r\nHost: x\r\n\r\n"+tc.body); err != nil {
				t.Fatalf("sending: %v", err)
			}
			answer := make([]byte, len("HTTP/1.1 413"))
			if _, err := io.ReadFull(conn, answer); err != nil {
				t.Fatalf("reading: %v", err)
			}
			if want := "HTTP/1.1 " + tc.status; string(answer) != want {
				t.Errorf("the answer is %q, want %q", answer, want)
			}
		})
	}
	// Whoever asks first is told first: nothing is read.
	conn, err := net.Dial("tcp", w.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, "POST /v1/take HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 13631488\r\n\r\n")
	answer := make([]byte, len("HTTP/1.1 413"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 413" {
		t.Errorf("with Expect: %q, %v", answer, err)
	}
}

// endless is a reader of the letter x.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

func TestOtherContentTypesAreRefusedWithTheCure(t *testing.T) {
	w := newWorld(t)
	const body = `{"policy":"api","key":"k"}`
	for _, tc := range []struct{ header, says string }{
		{"", "no content type"},
		{"application/x-www-form-urlencoded", "-H 'Content-Type: application/json'"},
		{"text/plain", `"text/plain" is not supported`},
		{"application/json; charset=latin1", "charset"},
		{"application/jsonx", "not supported"},
		{"/;;", "not supported"},
		{"application/yaml", "not supported"},
	} {
		var headers []string
		if tc.header != "" {
			headers = append(headers, "Content-Type: "+tc.header)
		}
		wantProblem(t, w.do("POST", "/v1/take", body, headers...), api.UnsupportedMediaType, tc.says)
	}
	wantProblem(t, w.post("/v1/take", body, "Content-Encoding: gzip"), api.UnsupportedMediaType, "gzip")
	wantProblem(t, w.do("PUT", "/v1/policies/new", body, "Content-Type: text/plain"), api.UnsupportedMediaType, "application/yaml")
	for _, fine := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"} {
		if r := w.do("POST", "/v1/take", body, "Content-Type: "+fine); r.StatusCode != 200 {
			t.Errorf("%s: %s", fine, r.Status)
		}
	}
}

// TestJSONBodiesHaveTheFieldsOfTheContract holds the decoded types against
// those that clients use.
func TestJSONBodiesHaveTheFieldsOfTheContract(t *testing.T) {
	for _, pair := range [][2]reflect.Type{
		{reflect.TypeFor[takeRequest](), reflect.TypeFor[api.TakeRequest]()},
		{reflect.TypeFor[batchRequest](), reflect.TypeFor[api.BatchRequest]()},
		{reflect.TypeFor[keyRequest](), reflect.TypeFor[api.KeyRequest]()},
		{reflect.TypeFor[refundRequest](), reflect.TypeFor[api.RefundRequest]()},
	} {
		if got, want := fieldNames(pair[0]), fieldNames(pair[1]); !reflect.DeepEqual(got, want) {
			t.Errorf("%s has %v, and %s %v", pair[0], got, pair[1], want)
		}
	}
}

func TestHalfOpenConnectionsAreCutOff(t *testing.T) {
	w := newWorld(t)
	srv := Server(w.edge, "", w.edge.Logger)
	if srv.ReadHeaderTimeout == 0 || srv.ReadTimeout == 0 || srv.WriteTimeout == 0 || srv.IdleTimeout == 0 || srv.MaxHeaderBytes == 0 {
		t.Fatal("a bound is missing")
	}
	// As in production, only sooner.
	srv.ReadHeaderTimeout, srv.ReadTimeout, srv.IdleTimeout = 100*time.Millisecond, 200*time.Millisecond, 100*time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	for name, sent := range map[string]string{
		"silent":         "",
		"half a header":  "POST /v1/take HTTP/1.1\r\nHost: x\r\nContent-",
		"half a body":    "POST /v1/take HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"half a chunk":   "POST /v1/take HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{",
		"a large header": "GET /livez HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, sent)
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			answer, err := io.ReadAll(conn)
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Fatal("the server still waits")
			}
			if bytes.Contains(answer, []byte("HTTP/1.1 2")) || bytes.Contains(answer, []byte("HTTP/1.1 5")) {
				t.Errorf("the answer is %.200q", answer)
			}
		})
	}
	if len(w.edge.inFlight) != 0 {
		t.Error("a request still counts as in flight")
	}
}

func TestOnlyWhatIsNoRequestIsAnsweredBelowTheAPI(t *testing.T) {
	w := newWorld(t)
	srv := Server(w.edge, "", w.edge.Logger)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	for name, tc := range map[string]struct {
		sent   string
		status int
		ours   bool
	}{
		"OPTIONS *":         {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, true},
		"another method":    {"BREW /v1/take HTTP/1.1\r\nHost: x\r\n\r\n", 405, true},
		"large header":      {"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", 431, false},
		"percent":           {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, false},
		"no host":           {"GET /livez HTTP/1.1\r\n\r\n", 400, false},
		"transfer encoding": {"POST /v1/take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, false},
		"version":           {"GET /livez HTTP/3.0\r\nHost: x\r\n\r\n", 505, false},
		"expectation":       {"POST /v1/take HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\n", 417, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(conn, tc.sent)
			r, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			ours := r.Header.Get("X-Request-Id") != "" && r.Header.Get("Content-Type") == api.MediaProblem
			if r.StatusCode != tc.status || ours != tc.ours {
				t.Errorf("%s %v", r.Status, r.Header)
			}
		})
	}
}
