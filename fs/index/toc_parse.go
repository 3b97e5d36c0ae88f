package index

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// maxTOCEntry bounds the JSON of one entry, most of which can only be xattrs,
// and with it the memory that decoding takes.
const maxTOCEntry = 1 << 20

// A tocEntry is an entry of a table of contents: eStargz's, and what podman's
// zstd:chunked adds.
type tocEntry struct {
	estargz.TOCEntry
	EndOffset int64  `json:"endOffset"` // of a file: where its last frame ends
	ChunkType string `json:"chunkType"`
}

// tocZeros is the ChunkType of a run of zeros.
const tocZeros = "zeros"

var tocTypes = map[string]byte{
	"reg":      tar.TypeReg,
	"dir":      tar.TypeDir,
	"symlink":  tar.TypeSymlink,
	"hardlink": tar.TypeLink,
	"char":     tar.TypeChar,
	"block":    tar.TypeBlock,
	"fifo":     tar.TypeFifo,
}

// header returns the tar header that e was made from, as far as e says it.
func (e *tocEntry) header() (*tar.Header, error) {
	t, ok := tocTypes[e.Type]
	if !ok {
		return nil, fmt.Errorf("%w: TOC entry %q is a %q", ErrCorrupt, e.Name, e.Type)
	}
	h := &tar.Header{
		Typeflag: t,
		Name:     e.Name,
		Linkname: e.LinkName,
		Mode:     e.Mode,
		Uid:      e.UID,
		Gid:      e.GID,
		ModTime:  time.Unix(0, 0),
		Devmajor: int64(e.DevMajor),
		Devminor: int64(e.DevMinor),
	}
	if t == tar.TypeReg {
		h.Size = e.Size
	}
	if e.Size < 0 || e.Mode < 0 {
		return nil, fmt.Errorf("%w: TOC entry %q: size %d, mode %#o", ErrCorrupt, e.Name, e.Size, e.Mode)
	}
	if e.ModTime3339 != "" {
		var err error
		if h.ModTime, err = time.Parse(time.RFC3339, e.ModTime3339); err != nil {
			return nil, fmt.Errorf("%w: TOC entry %q: time %q", ErrCorrupt, e.Name, e.ModTime3339)
		}
	}
	if len(e.Xattrs) > 0 {
		h.PAXRecords = make(map[string]string, len(e.Xattrs))
		for k, v := range e.Xattrs {
			h.PAXRecords["SCHILY.xattr."+k] = string(v)
		}
	}
	return h, nil
}

// parseTOC calls fn for each entry of the table of contents whose JSON r
// yields, in order. It holds one entry at a time; e is valid during the call.
func parseTOC(r io.Reader, fn func(e *tocEntry) error) error {
	g := &tocGuard{r: r}
	d := json.NewDecoder(g)
	g.d = d
	if err := tocDelim(d, '{'); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return tocSyntax(err)
		}
		switch key {
		case "entries":
			err = tocEntries(d, fn)
		case "version":
			err = tocVersion(d)
		default:
			var skipped json.RawMessage
			err = tocSyntax(d.Decode(&skipped))
		}
		if err != nil {
			return err
		}
	}
	return tocDelim(d, '}')
}

func tocEntries(d *json.Decoder, fn func(e *tocEntry) error) error {
	t, err := d.Token()
	if err != nil {
		return tocSyntax(err)
	}
	if t == nil { // null: what an encoder writes for a nil slice
		return nil
	}
	if t != json.Delim('[') {
		return fmt.Errorf("%w: TOC: entries are %v", ErrCorrupt, t)
	}
	for d.More() {
		var e tocEntry
		if err := d.Decode(&e); err != nil {
			return tocSyntax(err)
		}
		if err := fn(&e); err != nil {
			return err
		}
	}
	return tocDelim(d, ']')
}

func tocVersion(d *json.Decoder) error {
	var v int
	if err := d.Decode(&v); err != nil {
		return tocSyntax(err)
	}
	if v != 1 {
		return fmt.Errorf("%w: TOC version %d", ErrNoTOC, v)
	}
	return nil
}

func tocDelim(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err != nil {
		return tocSyntax(err)
	}
	if t != want {
		return fmt.Errorf("%w: TOC: %v where %v belongs", ErrCorrupt, t, want)
	}
	return nil
}

// tocSyntax turns a JSON decoder's error into ErrCorrupt.
func tocSyntax(err error) error {
	if err == nil || errors.Is(err, ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: TOC: %w", ErrCorrupt, err)
}

// A tocGuard hands a decoder no more than maxTOCEntry bytes beyond what it has
// decoded, which is what it would have to hold.
type tocGuard struct {
	r io.Reader
	d *json.Decoder
	n int64
}

func (g *tocGuard) Read(p []byte) (int, error) {
	room := maxTOCEntry - (g.n - g.d.InputOffset())
	if room <= 0 {
		return 0, fmt.Errorf("%w: TOC entry of more than %d bytes", ErrCorrupt, maxTOCEntry)
	}
	n, err := g.r.Read(p[:min(int64(len(p)), room)])
	g.n += int64(n)
	return n, err
}
