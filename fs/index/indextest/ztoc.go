package indextest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/flate"
)

// A Ztoc is what SOCI would write of a layer. A test may change it to a lie.
type Ztoc struct {
	BlobSize, TarSize int64
	Gzip              bool
	SpanSize          int64
	Entries           []ZtocEntry
	Points            []ZtocPoint // of an uncompressed layer, where the spans begin
	Digests           []string
	Old               bool // the form without the first checkpoint
}

// A ZtocEntry is an entry of a tar.
type ZtocEntry struct {
	tar.Header
	Type   string
	Offset int64
}

// A ZtocPoint is where a span begins.
type ZtocPoint struct {
	In, Out int64
	Bits    uint8
	Window  []byte // 32 KiB
}

var ztocTypes = map[byte]string{
	tar.TypeReg: "reg", tar.TypeDir: "dir", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink",
	tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo",
}

// NewZtoc returns the ztoc of a gzip or tar layer, with spans of about span bytes of
// the tar; nil if SOCI makes none of such a tar.
func NewZtoc(l Layer, span int64) *Ztoc {
	z := &Ztoc{BlobSize: l.Size(), SpanSize: span, Gzip: l.MediaType == ocispec.MediaTypeImageLayerGzip}
	src := bytes.NewReader(l.Tar)
	for tr := tar.NewReader(onlyRead{src}); ; {
		h, err := tr.Next()
		at := src.Size() - int64(src.Len())
		if errors.Is(err, io.EOF) {
			z.TarSize = at
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil
		}
		typ, ok := ztocTypes[h.Typeflag]
		if !ok {
			return nil
		}
		z.Entries = append(z.Entries, ZtocEntry{*h, typ, at})
	}
	if z.Gzip {
		z.gzipPoints(l)
	} else {
		for off := int64(0); off < z.BlobSize; off += span {
			z.Points = append(z.Points, ZtocPoint{In: off, Out: off})
		}
	}
	z.Rehash(l.Blob)
	return z
}

type onlyRead struct{ io.Reader }

// gzipPoints finds the ends of blocks that are more than a span apart.
func (z *Ztoc) gzipPoints(l Layer) {
	src := bytes.NewReader(l.Blob)
	br := bufio.NewReader(src)
	fr, total, last := new(flate.Reader), int64(0), int64(0)
	point := func(bit uint8) {
		if total > 0 && total-last <= z.SpanSize {
			return
		}
		window := make([]byte, 32<<10)
		copy(window[max(0, int64(len(window))-total):], l.Tar[max(0, total-int64(len(window))):total])
		in := src.Size() - int64(src.Len()+br.Buffered())
		z.Points = append(z.Points, ZtocPoint{In: in, Out: total, Bits: -bit & 7, Window: window})
		last = total
	}
	buf := make([]byte, 64<<10)
	for {
		if _, err := gzip.NewReader(br); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			must(err)
		}
		point(0)
		fr.Reset(br, 0, nil)
		for {
			n, err := fr.Read(buf)
			total += int64(n)
			if errors.Is(err, io.EOF) {
				break
			}
			must(err)
			if bit, ok := fr.Between(); ok {
				point(bit)
			}
		}
		_, err := br.Discard(8)
		must(err)
	}
}

// Rehash gives the spans the digests of what is there.
func (z *Ztoc) Rehash(blob []byte) {
	z.Digests = nil
	for i, p := range z.Points {
		from, to := p.In, z.BlobSize
		if p.Bits > 0 {
			from--
		}
		if i+1 < len(z.Points) {
			to = z.Points[i+1].In
		}
		z.Digests = append(z.Digests, digest.FromBytes(blob[from:to]).String())
	}
}

// Encode returns the ztoc's bytes.
func (z *Ztoc) Encode() []byte {
	entries := make([]fbTable, 0, len(z.Entries))
	for _, e := range z.Entries {
		modTime, err := e.ModTime.UTC().MarshalText()
		must(err)
		var pax []fbTable
		for k, v := range e.PAXRecords {
			pax = append(pax, fbTable{k, v})
		}
		entries = append(entries, fbTable{
			e.Name, e.Type, e.Offset, e.Size, e.Linkname, e.Mode, uint32(e.Uid), uint32(e.Gid),
			e.Uname, e.Gname, string(modTime), e.Devmajor, e.Devminor, pax,
		})
	}
	algorithm := byte(2)
	points := encodeTable(fbTable{uint32(2), z.SpanSize, z.BlobSize})
	if z.Gzip {
		algorithm, points = 1, z.encodePoints()
	}
	return encodeTable(fbTable{
		"0.9", "indextest", z.BlobSize, z.TarSize, fbTable{entries},
		fbTable{algorithm, uint32(len(z.Points) - 1), z.Digests, points},
	})
}

func (z *Ztoc) encodePoints() []byte {
	b := le.AppendUint32(nil, uint32(len(z.Points)))
	b = le.AppendUint64(b, uint64(z.SpanSize))
	for i, p := range z.Points {
		if i == 0 && z.Old {
			continue
		}
		b = le.AppendUint64(b, uint64(p.In))
		b = le.AppendUint64(b, uint64(p.Out))
		b = append(append(b, p.Bits), p.Window...)
	}
	return b
}

// EntryOf returns the last entry of a name.
func (z *Ztoc) EntryOf(name string) *ZtocEntry {
	for i := range slices.Backward(z.Entries) {
		if z.Entries[i].Name == name {
			return &z.Entries[i]
		}
	}
	panic("no entry " + name)
}
