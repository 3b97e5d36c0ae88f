// Package ztoc reads ztocs, the tables of contents of SOCI
// (github.com/awslabs/soci-snapshotter): the entries of a layer's tar, and the
// checkpoints at which its blob can be decoded, each with the SHA-256 of the
// compressed span that begins there. Nothing in them says what a file holds.
//
// A ztoc is a flatbuffer that anybody may have written. Whatever its bytes are, a
// reader gets an error or values within the bounds that are documented, and memory
// and time are bounded by the length of the bytes.
package ztoc
