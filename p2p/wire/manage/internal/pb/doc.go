// Package pb is what protoc makes of manage.proto. `script/proto` makes it again.
package pb
