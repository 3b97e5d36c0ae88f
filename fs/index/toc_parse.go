package index

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// maxTOCEntry bounds the JSON of one entry, most of which can only be xattrs,
// and with it the memory that decoding takes.
const maxTOCEntry = 1 << 20

// A tocEntry is an entry of a table of contents: what counts here of eStargz's
// (estargz.TOCEntry), and what podman's zstd:chunked adds.
type tocEntry struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	Size        int64             `json:"size"`
	ModTime3339 string            `json:"modtime"`
	LinkName    string            `json:"linkName"`
	Mode        int64             `json:"mode"`
	UID         int64             `json:"uid"`
	GID         int64             `json:"gid"`
	DevMajor    int64             `json:"devMajor"`
	DevMinor    int64             `json:"devMinor"`
	Xattrs      map[string][]byte `json:"xattrs"`
	Digest      string            `json:"digest"`
	Offset      int64             `json:"offset"`
	InnerOffset int64             `json:"innerOffset"`
	ChunkOffset int64             `json:"chunkOffset"`
	ChunkSize   int64             `json:"chunkSize"`
	ChunkDigest string            `json:"chunkDigest"`
	EndOffset   int64             `json:"endOffset"` // of a file: where its last frame ends
	ChunkType   string            `json:"chunkType"`
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

// header puts into h the tar header that e was made from, as far as e says it.
func (e *tocEntry) header(h *tar.Header) error {
	t, ok := tocTypes[e.Type]
	if !ok {
		return fmt.Errorf("%w: TOC entry %q is a %q", ErrCorrupt, e.Name, e.Type)
	}
	*h = tar.Header{
		Typeflag: t,
		Name:     e.Name,
		Linkname: e.LinkName,
		Mode:     e.Mode,
		Uid:      int(e.UID),
		Gid:      int(e.GID),
		ModTime:  time.Unix(0, 0),
		Devmajor: e.DevMajor,
		Devminor: e.DevMinor,
	}
	if t == tar.TypeReg {
		h.Size = e.Size
	}
	if e.Size < 0 || e.Mode < 0 {
		return fmt.Errorf("%w: TOC entry %q: size %d, mode %#o", ErrCorrupt, e.Name, e.Size, e.Mode)
	}
	if e.ModTime3339 != "" {
		var err error
		if h.ModTime, err = time.Parse(time.RFC3339, e.ModTime3339); err != nil {
			return fmt.Errorf("%w: TOC entry %q: time %q", ErrCorrupt, e.Name, e.ModTime3339)
		}
	}
	if len(e.Xattrs) > 0 {
		h.PAXRecords = make(map[string]string, len(e.Xattrs))
		for k, v := range e.Xattrs {
			h.PAXRecords["SCHILY.xattr."+k] = string(v)
		}
	}
	return nil
}

// parseTOC calls fn for each entry of the table of contents whose JSON r
// yields, in order. It holds one entry at a time; e and its strings are valid during
// the call.
func parseTOC(r io.Reader, fn func(e *tocEntry) error) error {
	t := &tocText{r: r}
	if err := t.expect('{'); err != nil {
		return tocSyntax(err)
	}
	if empty, err := t.accept('}'); err != nil || empty {
		return tocSyntax(err)
	}
	for {
		var key string
		err := t.decode(&key)
		if err == nil {
			err = t.expect(':')
		}
		if err != nil {
			return tocSyntax(err)
		}
		switch key {
		case "entries":
			err = tocEntries(t, fn)
		case "version":
			err = tocVersion(t)
		default:
			var skipped json.RawMessage
			err = tocSyntax(t.decode(&skipped))
		}
		if err != nil {
			return err
		}
		if more, err := t.more('}'); err != nil || !more {
			return tocSyntax(err)
		}
	}
}

func tocEntries(t *tocText, fn func(e *tocEntry) error) error {
	if list, err := t.accept('['); err != nil {
		return tocSyntax(err)
	} else if !list {
		v, err := t.value()
		if err == nil && string(v) != "null" { // what an encoder writes for a nil slice
			err = fmt.Errorf("%w: TOC: entries are %s", ErrCorrupt, shorten(string(v)))
		}
		return tocSyntax(err)
	}
	if empty, err := t.accept(']'); err != nil || empty {
		return tocSyntax(err)
	}
	for e := new(tocEntry); ; {
		if err := t.entry(e); err != nil {
			return tocSyntax(err)
		}
		if err := fn(e); err != nil {
			return err
		}
		if more, err := t.more(']'); err != nil || !more {
			return tocSyntax(err)
		}
	}
}

func tocVersion(t *tocText) error {
	var v int
	if err := t.decode(&v); err != nil {
		return tocSyntax(err)
	}
	if v != 1 {
		return fmt.Errorf("%w: TOC version %d", ErrNoTOC, v)
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
