package index

// Limits bounds what one layer may take. Zero fields have the default.
type Limits struct {
	Inodes  int   // files, folders, links and whiteouts: 4,194,304
	Strings int64 // bytes of names, link targets and extended attributes: 1 GiB
	Chunks  int   // 16,777,216
	Stream  int64 // bytes of the uncompressed tar: 1 TiB
	Sparse  int64 // bytes of holes in sparse files: 1 TiB
}

func (l Limits) withDefaults() Limits {
	or := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	orInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orInt(&l.Inodes, 4<<20)
	orInt(&l.Chunks, 16<<20)
	or(&l.Strings, 1<<30)
	or(&l.Stream, 1<<40)
	or(&l.Sparse, 1<<40)
	return l
}

// Limits of single things. They are the kernel's, or far above anything real.
const (
	maxName     = 255
	maxPath     = 4095
	maxTarget   = 4095
	maxXattrKey = 255
	maxXattr    = 64 << 10 // bytes of one value
	maxXattrs   = 1024     // of one inode
	maxChunk    = 64 << 20 // bytes of one chunk
	maxLinks    = 255      // symbolic links followed in one path
)
