package main

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/rlstore/rlstore/api"
)

// constant is an answer of the usual length.
const constant = `{"allowed":true,"policy":"bench","key":"bench:key:0000000042","limit":2000000000,"remaining":1999999999,` +
	`"retry_after_ms":0,"reset_after_ms":60000,"mode":"strict","source":"store","policy_revision":7,` +
	`"commit":{"shard":3,"index":884213,"offset":17,"time_ns":93200000000},"wait_ms":0,"shadowed":false,"duplicate":false}`

// serveBare answers every take alike: what POST /v1/take would do if rlstore cost
// nothing. It ends with the process.
func serveBare(addr string) error {
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var take api.TakeRequest
		if err == nil {
			err = json.Unmarshal(body, &take)
		}
		if err != nil || take.Key == "" {
			http.Error(w, "not a take", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", api.MediaJSON)
		_, _ = io.WriteString(w, constant)
	}))
}
