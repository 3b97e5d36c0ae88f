// Package index makes layers readable at random.
//
// An index is one flat file, mapped and never parsed: the tree a layer unpacks
// to (inodes, sorted directory entries, names, extended attributes), and where
// in the blob the content of each regular file is (chunks with their SHA-256,
// and spans, the runs of the blob that decode on their own).
//
// The tree is what containerd's overlayfs snapshotter gets when it unpacks the
// same tar over nothing, whiteouts converted to overlay's form included. What
// depends on the layers below, the attributes of folders that the tar only
// implies, is marked [Inode.Implied] and left to the reader.
//
// [Build] reads a blob once, from its first byte to its last, and writes the
// index; on the way it hands the content to a [Sink], so that unpacking a layer
// and indexing it are one pass. The same blob and format version give the same
// [Info.ID] on every machine.
//
// # Format
//
// All numbers are little endian. A file begins with a header of 4,096 bytes,
// of which the first part names the blob and gives length and SHA-256 of each
// table; the SHA-256 of that part is the index ID. The second part says where
// the tables lie, and has a digest of its own. Tables are arrays of records of
// a fixed size (see format.go) and bytes that they refer to.
//
// The windows that decompression of a gzip span begins with (32 KiB each, zeros
// where the span refers to nothing) are outside the mapped tables: one zstd frame
// each, read when a span is decoded and checked against the table of their digests. Because only digests of raw
// windows enter the index ID, it does not depend on the version of the encoder.
package index
