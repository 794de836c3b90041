// Package rlstore holds what is about the whole of it: the description of its API.
package rlstore

import _ "embed"

// OpenAPI is openapi.yaml.
//
//go:embed openapi.yaml
var OpenAPI []byte
