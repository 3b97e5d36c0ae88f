// Package pb is what protoc makes of wire.proto. `script/proto` makes it again.
package pb
