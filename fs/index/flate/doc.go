// Package flate inflates DEFLATE streams (RFC 1951) for package index.
//
// Unlike compress/flate it can begin and stop at any block of a stream: a
// [Reader] says when it is between two blocks, where in the input that is, to
// the bit, and what window the next block needs; one that is reset to such a
// place goes on from there. It never takes more from its input than it has
// decoded.
//
// It is also faster, about twice. As in libdeflate, input is taken eight bytes at
// a time, a symbol costs one lookup in a table of entries that hold all there is
// to know of it, and output goes to a buffer in which the window is contiguous,
// with some room behind, so that the inner loop checks for its end once a symbol
// and matches are copied eight bytes at a time.
package flate
