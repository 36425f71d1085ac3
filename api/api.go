// Package api is the contract: openapi.yaml, and what is generated from it. The
// service's types and the Go clients come from the same document; a test holds
// the route table to it.
package api

import _ "embed"

//go:generate go tool oapi-codegen -config factory.yaml openapi.yaml
//go:generate go tool oapi-codegen -config device.yaml openapi.yaml
//go:generate go tool oapi-codegen -config admin.yaml openapi.yaml

// OpenAPI is the document.
//
//go:embed openapi.yaml
var OpenAPI []byte
