package imageservice

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// raw leaves messages as they are: *[]byte.
type raw struct{}

var _ encoding.CodecV2 = raw{}

// Marshal returns the bytes that v points to.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no message as it is", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

// Unmarshal keeps data in what v points to.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no message as it is", v)
	}
	*b = data.Materialize()
	return nil
}

// Name is that of protobuf's codec, since what is forwarded is in its format.
func (raw) Name() string { return "proto" }
