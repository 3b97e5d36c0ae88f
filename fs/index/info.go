package index

import "github.com/opencontainers/go-digest"

// Info describes a whole index.
type Info struct {
	ID       digest.Digest // index ID: SHA-256 of the header's first part, which holds the digests of all tables
	Version  int
	Blob     digest.Digest
	BlobSize int64
	DiffID   digest.Digest // "" while not proven: made from a table of contents
	Kind     Kind
	Seekable bool // false: content comes only from a pass over the whole blob
	Inodes   int  // Dead ones included; the highest inode number
	Chunks   int
	Spans    int
	Bytes    int64 // content of regular files
	Usage    int64 // what the tree takes unpacked: file sizes rounded up to 4 KiB, 4 KiB per folder
	Xattrs   bool  // some inode has an extended attribute (opaque folders have)
	Prefetch int64 // blob bytes [0,Prefetch) are wanted first; 0: none are named
}

// Hashes reports whether chunks have digests of their own. If not, content is right
// only as Decode gives it, and nothing tells later whether it still is.
func (i Info) Hashes() bool { return i.Kind != Soci }
