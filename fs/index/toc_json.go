package index

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
	"unsafe"
)

const (
	tocBuffer   = 64 << 10 // at first
	maxTOCDepth = 10_000   // of values in values, as in encoding/json
)

// tocText cuts a JSON text into values, of which it holds one at a time. It finds
// where a value ends and does not look further into it: whoever decodes it finds
// out whether it is one.
type tocText struct {
	r   io.Reader
	buf []byte // buf[at:] is what comes next
	at  int
	err error // of r
}

// grow reads more of the text. What is being looked at stays, and may be of
// maxTOCEntry bytes.
func (t *tocText) grow() error {
	rest := t.buf[t.at:]
	switch {
	case len(rest) >= maxTOCEntry:
		return fmt.Errorf("%w: TOC entry of more than %d bytes", ErrCorrupt, maxTOCEntry)
	case t.err != nil:
		return noEOF(t.err)
	case t.buf == nil:
		t.buf = make([]byte, tocBuffer)
	case len(rest) > cap(t.buf)/2:
		t.buf = make([]byte, 2*cap(t.buf))
	}
	t.buf = t.buf[:cap(t.buf)]
	had := copy(t.buf, rest)
	n, err := io.ReadFull(t.r, t.buf[had:])
	if t.at, t.buf = 0, t.buf[:had+n]; err != nil {
		t.err = err
	}
	if n == 0 {
		return noEOF(t.err)
	}
	return nil
}

// peek returns the next byte that is not blank.
func (t *tocText) peek() (byte, error) {
	for i := t.at; ; i++ {
		for i == len(t.buf) {
			off := i - t.at
			if err := t.grow(); err != nil {
				return 0, err
			}
			i = t.at + off
		}
		switch c := t.buf[i]; c {
		case ' ', '\t', '\r', '\n':
		default:
			t.at = i
			return c, nil
		}
	}
}

// accept reports whether c is next, and passes over it then.
func (t *tocText) accept(c byte) (bool, error) {
	b, err := t.peek()
	if err != nil || b != c {
		return false, err
	}
	t.at++
	return true, nil
}

// expect passes over c.
func (t *tocText) expect(c byte) error {
	ok, err := t.accept(c)
	if err == nil && !ok {
		err = fmt.Errorf("%w: TOC: %c where %c belongs", ErrCorrupt, t.buf[t.at], c)
	}
	return err
}

// more reports whether a comma is next, and not end, and passes over either.
func (t *tocText) more(end byte) (bool, error) {
	if comma, err := t.accept(','); err != nil || comma {
		return comma, err
	}
	return false, t.expect(end)
}

// value passes over the next value and returns it, valid until the next call.
func (t *tocText) value() ([]byte, error) {
	if _, err := t.peek(); err != nil {
		return nil, err
	}
	for {
		n, err := valueLen(t.buf[t.at:])
		if err != nil {
			return nil, err
		}
		if n > 0 {
			t.at += n
			return t.buf[t.at-n : t.at], nil
		}
		if err := t.grow(); err != nil {
			return nil, err
		}
	}
}

// entry takes the next value as an entry. e's strings may lie in the text, and are
// valid until the next call.
func (t *tocText) entry(e *tocEntry) error {
	if _, err := t.peek(); err != nil {
		return err
	}
	*e = tocEntry{}
	if n := e.parse(t.buf[t.at:]); n > 0 {
		t.at += n
		return nil
	}
	v, err := t.value() // all of it
	if err != nil {
		return err
	}
	*e = tocEntry{}
	if e.parse(v) == len(v) {
		return nil
	}
	*e = tocEntry{}
	return json.Unmarshal(v, e)
}

// decode takes the next value as encoding/json does.
func (t *tocText) decode(to any) error {
	v, err := t.value()
	if err != nil {
		return err
	}
	return json.Unmarshal(v, to)
}

var (
	errNoValue = errors.New("no value where one belongs")
	errDepth   = errors.New("exceeded max depth")
)

// valueLen returns the length of the value that b begins with, 0 if b does not
// show where it ends.
func valueLen(b []byte) (int, error) {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			n := stringLen(b[i:])
			if n == 0 {
				return 0, nil
			}
			if i += n - 1; depth == 0 {
				return i + 1, nil
			}
		case '{', '[':
			if depth++; depth > maxTOCDepth {
				return 0, errDepth
			}
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1, nil
			}
			fallthrough // what a number or a word stands in may end
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth <= 0 && i == 0 {
				return 0, errNoValue
			}
			if depth <= 0 {
				return i, nil
			}
		}
	}
	return 0, nil
}

// stringLen returns the length of the string that b begins with, 0 if it does
// not end in b.
func stringLen(b []byte) int {
	for i := 1; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return 0
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}

// parse takes an entry from the JSON that b begins with, if all of it is there and
// can be had at a glance, which is so for nearly every entry, and returns the
// entry's length. Else it returns 0, and e is undefined. e's strings lie in b.
func (e *tocEntry) parse(b []byte) int {
	p := tocScan{b: b}
	if !p.skip('{') {
		return 0
	}
	for {
		key, ok := p.text()
		if !ok || !p.skip(':') || !e.field(string(key), &p) {
			return 0
		}
		if !p.skip(',') {
			if !p.skip('}') {
				return 0
			}
			return p.i
		}
	}
}

// field takes the value of one key.
func (e *tocEntry) field(key string, p *tocScan) bool {
	switch key {
	case "name":
		return p.string(&e.Name)
	case "type":
		return p.string(&e.Type)
	case "size":
		return p.int(&e.Size)
	case "modtime":
		return p.string(&e.ModTime3339)
	case "linkName":
		return p.string(&e.LinkName)
	case "mode":
		return p.int(&e.Mode)
	case "uid":
		return p.int(&e.UID)
	case "gid":
		return p.int(&e.GID)
	case "userName", "groupName", "accesstime", "changetime":
		_, ok := p.text()
		return ok
	case "offset":
		return p.int(&e.Offset)
	case "innerOffset":
		return p.int(&e.InnerOffset)
	case "digest":
		return p.string(&e.Digest)
	case "chunkOffset":
		return p.int(&e.ChunkOffset)
	case "chunkSize":
		return p.int(&e.ChunkSize)
	case "chunkDigest":
		return p.string(&e.ChunkDigest)
	case "chunkType":
		return p.string(&e.ChunkType)
	case "endOffset":
		return p.int(&e.EndOffset)
	}
	return false // rare ones, and those that encoding/json matches by their lower case
}

// tocScan reads the plain forms of JSON: strings without escapes, short integers.
type tocScan struct {
	b []byte
	i int
}

// next returns the next byte that is not blank, 0 at the end.
func (p *tocScan) next() byte {
	for ; p.i < len(p.b); p.i++ {
		switch c := p.b[p.i]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

func (p *tocScan) skip(c byte) bool {
	if p.next() != c {
		return false
	}
	p.i++
	return true
}

func (p *tocScan) text() ([]byte, bool) {
	if !p.skip('"') {
		return nil, false
	}
	n := bytes.IndexByte(p.b[p.i:], '"')
	if n < 0 {
		return nil, false
	}
	s := p.b[p.i : p.i+n]
	p.i += n + 1
	return s, plain(s) || plainUTF8(s)
}

// plain reports whether all of s is printable ASCII, and none a backslash. It looks
// at eight bytes at once: what is taken from or added to a byte carries into the next
// only where an earlier one is refused already.
func plain(s []byte) bool {
	const each, top = 0x0101010101010101, 0x8080808080808080
	bad := uint64(0)
	for ; len(s) >= 8; s = s[8:] {
		v := le.Uint64(s)
		slash := v ^ '\\'*each
		bad |= v | (v - ' '*each) | (slash - each)
	}
	for _, c := range s {
		if c < ' ' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return bad&top == 0
}

// plainUTF8 reports the same, and other letters too.
func plainUTF8(s []byte) bool {
	for _, c := range s {
		if c < ' ' || c == '\\' {
			return false
		}
	}
	return utf8.Valid(s)
}

func (p *tocScan) string(to *string) bool {
	s, ok := p.text()
	*to = unsafe.String(unsafe.SliceData(s), len(s))
	return ok
}

func (p *tocScan) int(to *int64) bool {
	const maxDigits = 18 // which an int64 always holds
	negative := p.skip('-')
	n, digits := int64(0), 0
	for ; p.i < len(p.b) && '0' <= p.b[p.i] && p.b[p.i] <= '9'; p.i++ {
		if digits == maxDigits || n == 0 && digits > 0 {
			return false
		}
		n, digits = 10*n+int64(p.b[p.i]-'0'), digits+1
	}
	if negative {
		n = -n
	}
	*to = n
	return digits > 0
}
