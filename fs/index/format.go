package index

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Version is the format this package writes and the only one it reads. All that Build
// decides belongs to it, such as where chunks end: hosts compare what they make of the
// same layer.
const Version = 2

const magic = "DFSINDEX"

// The mapped tables.
const (
	secInodes  = iota // inodeSize, by number, from 1
	secEntries        // entrySize, by folder and name
	secStrings        // names, link targets, extended attributes
	secXattrs         // xattrSize, by inode and name
	secChunks         // chunkSize, in blob order
	secSpans          // spanSize, in blob order
	secWindows        // sha256.Size, digest of each raw window
	secCount
)

const (
	inodeSize  = 64
	entrySize  = 12
	xattrSize  = 12
	chunkSize  = 64
	spanSize   = 48
	windowSize = 16 // record of where a compressed window lies
)

var recordSize = [secCount]int{inodeSize, entrySize, 1, xattrSize, chunkSize, spanSize, sha256.Size}

const (
	flagImplied = 1 << iota
	flagDead
)

// Kind says what a blob is.
type Kind uint8

// The kinds of blobs. A layer that is EStargz or ZstdChunked was indexed from
// the table of contents it carries, one that is Soci, gzip or tar, from a ztoc;
// Build never makes one of these.
const (
	Tar Kind = iota + 1
	Gzip
	Zstd
	EStargz
	ZstdChunked
	Soci
)

func (k Kind) String() string {
	if k < Tar || k > Soci {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return [...]string{"tar", "gzip", "zstd", "estargz", "zstd:chunked", "soci"}[k-Tar]
}

// codec says how a span decodes.
type codec uint8

const (
	codecRaw    codec = iota + 1 // as it is
	codecMember                  // gzip, from a member's header on
	codecBlock                   // deflate, from a block inside a member on
	codecZstd                    // one or more zstd frames
)

var le = binary.LittleEndian

// inodeRec is an inode of the table. a and b are the range of a folder's
// entries (first, count), of a file's chunks, or of a link's target in strings.
type inodeRec struct {
	mode, uid, gid, nlink, rdev, parent uint32
	mtime                               int64
	nsec                                uint32
	flags, xattrs                       uint16
	size                                int64
	a, b                                uint32
	xattr                               uint32 // first of the extended attributes
	entry                               uint32 // one that names it
}

func (r *inodeRec) put(b []byte) {
	_ = b[inodeSize-1]
	for i, v := range [...]uint32{r.mode, r.uid, r.gid, r.nlink, r.rdev, r.parent} {
		le.PutUint32(b[4*i:], v)
	}
	le.PutUint64(b[24:], uint64(r.mtime))
	le.PutUint32(b[32:], r.nsec)
	le.PutUint16(b[36:], r.flags)
	le.PutUint16(b[38:], r.xattrs)
	le.PutUint64(b[40:], uint64(r.size))
	le.PutUint32(b[48:], r.a)
	le.PutUint32(b[52:], r.b)
	le.PutUint32(b[56:], r.xattr)
	le.PutUint32(b[60:], r.entry)
}

func getInode(b []byte) inodeRec {
	_ = b[inodeSize-1]
	return inodeRec{
		mode: le.Uint32(b), uid: le.Uint32(b[4:]), gid: le.Uint32(b[8:]),
		nlink: le.Uint32(b[12:]), rdev: le.Uint32(b[16:]), parent: le.Uint32(b[20:]),
		mtime: int64(le.Uint64(b[24:])), nsec: le.Uint32(b[32:]),
		flags: le.Uint16(b[36:]), xattrs: le.Uint16(b[38:]),
		size: int64(le.Uint64(b[40:])), a: le.Uint32(b[48:]), b: le.Uint32(b[52:]),
		xattr: le.Uint32(b[56:]), entry: le.Uint32(b[60:]),
	}
}

// entryRec names ino.
type entryRec struct {
	name    uint32
	ino     uint32
	nameLen uint32
}

func (r *entryRec) put(b []byte) {
	le.PutUint32(b, r.name)
	le.PutUint32(b[4:], r.ino)
	le.PutUint32(b[8:], r.nameLen)
}

func getEntry(b []byte) entryRec {
	_ = b[entrySize-1]
	return entryRec{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])}
}

// xattrRec is one extended attribute; key and value lie one after the other.
type xattrRec struct {
	off      uint32
	nameLen  uint32
	valueLen uint32
}

func (r *xattrRec) put(b []byte) {
	le.PutUint32(b, r.off)
	le.PutUint32(b[4:], r.nameLen)
	le.PutUint32(b[8:], r.valueLen)
}

func getXattr(b []byte) xattrRec {
	_ = b[xattrSize-1]
	return xattrRec{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])}
}

// chunk is a run of a file, inner bytes into what its span decodes to. The digest
// is of its bytes, of kind Soci of those of the span in the blob.
type chunk struct {
	ino, span uint32
	off       int64
	inner     int64
	size      uint32
	digest    [sha256.Size]byte
}

func (r *chunk) put(b []byte) {
	le.PutUint32(b, r.ino)
	le.PutUint32(b[4:], r.span)
	le.PutUint64(b[8:], uint64(r.off))
	le.PutUint64(b[16:], uint64(r.inner))
	le.PutUint32(b[24:], r.size)
	le.PutUint32(b[28:], 0)
	copy(b[32:64], r.digest[:])
}

func getChunk(b []byte) chunk {
	_ = b[chunkSize-1]
	return chunk{
		ino: le.Uint32(b), span: le.Uint32(b[4:]), off: int64(le.Uint64(b[8:])),
		inner: int64(le.Uint64(b[16:])), size: le.Uint32(b[24:]), digest: [32]byte(b[32:64]),
	}
}

// span is a run of the blob that decodes on its own: size bytes at off.
type span struct {
	off, size int64
	out       int64  // offset in the tar of what it decodes to; 0 if unknown
	outSize   int64  // bytes it decodes to, or as many as its chunks need
	window    uint32 // position of the window+1; 0: it needs none
	first     uint32 // first chunk
	chunks    uint32
	codec     codec
	bit       uint8 // codecBlock: bits of the first byte that come before it
}

func (r *span) put(b []byte) {
	le.PutUint64(b, uint64(r.off))
	le.PutUint64(b[8:], uint64(r.size))
	le.PutUint64(b[16:], uint64(r.out))
	le.PutUint64(b[24:], uint64(r.outSize))
	le.PutUint32(b[32:], r.window)
	le.PutUint32(b[36:], r.first)
	le.PutUint32(b[40:], r.chunks)
	b[44], b[45], b[46], b[47] = byte(r.codec), r.bit, 0, 0
}

func getSpan(b []byte) span {
	_ = b[spanSize-1]
	return span{
		off: int64(le.Uint64(b)), size: int64(le.Uint64(b[8:])), out: int64(le.Uint64(b[16:])),
		outSize: int64(le.Uint64(b[24:])), window: le.Uint32(b[32:]), first: le.Uint32(b[36:]),
		chunks: le.Uint32(b[40:]), codec: codec(b[44]), bit: b[45],
	}
}

// windowLoc says where in the file a window's zstd frame lies.
type windowLoc struct {
	off  int64
	size uint32
	raw  uint32
}

func (r *windowLoc) put(b []byte) {
	le.PutUint64(b, uint64(r.off))
	le.PutUint32(b[8:], r.size)
	le.PutUint32(b[12:], r.raw)
}

func getWindowLoc(b []byte) windowLoc {
	_ = b[windowSize-1]
	return windowLoc{int64(le.Uint64(b)), le.Uint32(b[8:]), le.Uint32(b[12:])}
}

// table is what the header says of one section.
type table struct {
	size   int64
	off    int64 // outside the index ID
	digest [sha256.Size]byte
}

// header is the first headerSize bytes of the file. The fields of the first
// part are in Info as well.
type header struct {
	info    Info
	spacing int64
	tables  [secCount]table
	windows table // of windowLoc records; their frames come before all tables
}

const (
	headerSize = 4096
	digestLen  = 144 // room for "sha512:" and 128 digits
	partOne    = len(magic) + 8 + 2*digestLen + 5*8 + secCount*(8+sha256.Size)
	partTwo    = partOne + sha256.Size + secCount*8 + 8 + 8 + sha256.Size
)

// encode fills in info.ID.
func (h *header) encode() []byte {
	b := make([]byte, 0, headerSize)
	i := &h.info
	b = append(b, magic...)
	b = le.AppendUint32(b, uint32(i.Version))
	b = append(b, byte(i.Kind), boolByte(i.Seekable), boolByte(i.Xattrs), 0)
	b = append(b, padded(i.Blob)...)
	b = append(b, padded(i.DiffID)...)
	for _, v := range []int64{i.BlobSize, i.Bytes, i.Usage, i.Prefetch, h.spacing} {
		b = le.AppendUint64(b, uint64(v))
	}
	for _, t := range h.tables {
		b = le.AppendUint64(b, uint64(t.size))
		b = append(b, t.digest[:]...)
	}
	id := sha256.Sum256(b)
	i.ID = digest.NewDigestFromBytes(digest.SHA256, id[:])
	b = append(b, id[:]...)
	for _, t := range h.tables {
		b = le.AppendUint64(b, uint64(t.off))
	}
	b = le.AppendUint64(b, uint64(h.windows.off))
	b = le.AppendUint64(b, uint64(h.windows.size))
	b = append(b, h.windows.digest[:]...)
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)
	return append(b, make([]byte, headerSize-len(b))...)
}

// decode checks what can be checked in the header alone.
func (h *header) decode(b []byte) error {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return fmt.Errorf("not an index: %w", ErrCorrupt)
	}
	if v := le.Uint32(b[len(magic):]); v != Version {
		return fmt.Errorf("version %d: %w", v, ErrVersion)
	}
	if sha256.Sum256(b[:partTwo]) != [32]byte(b[partTwo:]) || sha256.Sum256(b[:partOne]) != [32]byte(b[partOne:]) {
		return fmt.Errorf("header: %w", ErrCorrupt)
	}
	i := &h.info
	i.Version, i.ID = Version, digest.NewDigestFromBytes(digest.SHA256, b[partOne:partOne+sha256.Size])
	i.Kind, i.Seekable, i.Xattrs = Kind(b[12]), b[13] != 0, b[14] != 0
	if i.Kind < Tar || i.Kind > Soci {
		return fmt.Errorf("%v: %w", i.Kind, ErrCorrupt)
	}
	r := b[16:]
	var err error
	if i.Blob, err = unpadded(r[:digestLen]); err != nil {
		return err
	}
	if i.DiffID, err = unpadded(r[digestLen : 2*digestLen]); err != nil {
		return err
	}
	r = r[2*digestLen:]
	for _, v := range []*int64{&i.BlobSize, &i.Bytes, &i.Usage, &i.Prefetch, &h.spacing} {
		*v, r = int64(le.Uint64(r)), r[8:]
	}
	for s := range h.tables {
		h.tables[s].size, r = int64(le.Uint64(r)), r[8:]
		h.tables[s].digest, r = [32]byte(r), r[sha256.Size:]
	}
	r = r[sha256.Size:]
	for s := range h.tables {
		h.tables[s].off, r = int64(le.Uint64(r)), r[8:]
	}
	h.windows = table{off: int64(le.Uint64(r)), size: int64(le.Uint64(r[8:])), digest: [32]byte(r[16:])}
	i.Inodes, i.Chunks, i.Spans = h.count(secInodes), h.count(secChunks), h.count(secSpans)
	return nil
}

func (h *header) count(section int) int {
	return int(h.tables[section].size / int64(recordSize[section]))
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func padded(d digest.Digest) []byte {
	b := make([]byte, digestLen)
	copy(b, d)
	return b
}

func unpadded(b []byte) (digest.Digest, error) {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	if n == 0 {
		return "", nil
	}
	d := digest.Digest(b[:n])
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	return d, nil
}
