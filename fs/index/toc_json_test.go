package index

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// parseSlowly is parseTOC by encoding/json alone.
func parseSlowly(text []byte) (entries []tocEntry, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	delim := func(want json.Delim) error {
		t, err := d.Token()
		if err == nil && t != want {
			err = fmt.Errorf("%v where %v belongs", t, want)
		}
		return err
	}
	if err := delim('{'); err != nil {
		return nil, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch key {
		case "entries":
			var list []tocEntry
			err = d.Decode(&list)
			entries = append(entries, list...)
		case "version":
			var v int
			if err = d.Decode(&v); err == nil && v != 1 {
				err = errors.New("another version")
			}
		default:
			err = d.Decode(new(json.RawMessage))
		}
		if err != nil {
			return nil, err
		}
	}
	return entries, delim('}')
}

func parseFast(r io.Reader) (entries []tocEntry, err error) {
	err = parseTOC(r, func(e *tocEntry) error {
		kept := *e
		for _, s := range []*string{&kept.Name, &kept.Type, &kept.ModTime3339, &kept.LinkName, &kept.Digest, &kept.ChunkDigest, &kept.ChunkType} {
			*s = strings.Clone(*s) // it is valid during the call only
		}
		entries = append(entries, kept)
		return nil
	})
	return entries, err
}

func sameParse(t *testing.T, text []byte) {
	t.Helper()
	want, werr := parseSlowly(text)
	got, err := parseFast(bytes.NewReader(text))
	if (err == nil) != (werr == nil) {
		t.Fatalf("%.300q: error %v, encoding/json says %v", text, err, werr)
	}
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNoTOC) {
		t.Fatalf("%.300q: error without a kind: %v", text, err)
	}
	if diff := cmp.Diff(want, got); err == nil && diff != "" {
		t.Fatalf("%.300q: encoding/json - ours: %s", text, diff)
	}
}

var tocTexts = []string{
	`{}`, ` { } x`, `{"entries":[]}`, `{"entries":null}`, `{"entries":[null,{}]}`, `{"entries":[{"name":"a"}],"entries":[{"name":"b"}]}`,
	`{"version":1,"entries":[{"name":"a/b","type":"reg","size":5,"modtime":"2024-02-29T12:34:56Z","mode":420,"uid":-1,"gid":1000,"userName":"u","groupName":"g","offset":512,"innerOffset":3,"digest":"sha256:00","chunkOffset":1,"chunkSize":2,"chunkDigest":"sha256:11"}]}`,
	`{"version":1,"entries":[{"name":"c","type":"char","devMajor":1,"devMinor":3,"xattrs":{"user.a":"YQ==","user.b":null},"NumLink":5}]}`,
	`{"version":1,"entries":[{"type":"reg","name":"a","accesstime":"x","changetime":7,"endOffset":99,"chunkType":"zeros"}],"tarSplitDigest":"x"}`,
	`{"entries":[ {"name" : "a" ,	"size" : 7 } ,` + "\r\n" + ` { } ] }`,
	`{"entries":[{"name":"\u0041\\\"\/\ud834\udd1e"},{"name":"ä€𝄞"},{"name":"\ufffd"},{"NAME":"folded","\u006eame":"escaped"},{"name":"` + "\xff" + `"}]}`,
	`{"entries":[{"name":"12345678"},{"name":"1234567 12345678!"},{"name":"1234567\u000812345678"},{"name":"1234567\\12345678"},{"name":"1234567é12345678"},{"name":"` + "1234567\x7f12345678\xff" + `"}]}`,
	`{"entries":[{"name":"twice","name":"later","size":1,"size":null}]}`,
	`{"entries":[{"size":-0},{"size":-7},{"size":999999999999999999},{"size":9223372036854775807},{"size":-9223372036854775808}]}`,
	// Not JSON, or not of the right types.
	``, `{`, `[]`, `7`, `{"entries":7}`, `{"entries":[7]}`, `{"entries":[{}`, `{"entries":[{}]`, `{"entries":[{},]}`, `{"entries":[,{}]}`,
	`{"entries":[{} {}]}`, `{"entries":[{}]]}`, `{"entries":[{]}}`, `{"entries":[{"name":"a",}]}`, `{"entries":[{"name"}]}`, `{"entries":[{"name":}]}`,
	`{"entries":[{"name":"a" "size":1}]}`, `{"entries":[{,"name":"a"}]}`, `{"entries":[{"name":"a}]}`, "{\"entries\":[{\"name\":\"a\nb\"}]}",
	"{\"entries\":[{\"name\":\"1234567\n12345678\"}]}", "{\"entries\":[{\"name\":\"12345678\n234567\x0012345678\"}]}", `{"entries":[{"name":"1234567` + "\x1f" + `"}]}`,
	`{"entries":[{"size":01}]}`, `{"entries":[{"size":-}]}`, `{"entries":[{"size":- 1}]}`, `{"entries":[{"size":1.0}]}`, `{"entries":[{"size":1e3}]}`,
	`{"entries":[{"size":9223372036854775808}]}`, `{"entries":[{"size":"7"}]}`, `{"entries":[{"size":7x}]}`, `{"entries":[{"name":7}]}`, `{"entries":[{"name":tru}]}`,
	`{"version":2}`, `{"version":"1"}`, `{"version":1 "x":2}`, `{"x":[1,{"y":"]}"},3],"entries":[{"name":"a"}]}`, `{"x":tru}`, `{"x":1]`, `{7:1}`, `{,}`, `{"x":}`, `{"x"]}`,
	`{"x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`, `{"x":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `}`,
}

func TestTOCText(t *testing.T) {
	for _, text := range tocTexts {
		sameParse(t, []byte(text))
	}
}

// TestTOCTextLong: values lie across the ends of what is read at a time, and
// some do not fit.
func TestTOCTextLong(t *testing.T) {
	var list []tocEntry
	for i := range 3000 {
		e := tocEntry{Name: strings.Repeat("n", i), Type: "reg", Size: int64(i), Digest: `quoted " \ ` + strings.Repeat(`\`, i%7)}
		if i%100 == 0 {
			e.Xattrs = map[string][]byte{"user.long": bytes.Repeat([]byte{byte(i)}, 200*i)}
		}
		list = append(list, e)
	}
	text, err := json.Marshal(map[string]any{"entries": list})
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"whole":  bytes.NewReader(text),
		"pieces": iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(text))),
	} {
		got, err := parseFast(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(list, got); diff != "" {
			t.Errorf("%s: %.2000s", name, diff)
		}
	}
	broken := io.MultiReader(bytes.NewReader(text[:len(text)/2]), iotest.ErrReader(io.ErrClosedPipe))
	if _, err := parseFast(broken); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a reader's error became %v", err)
	}
}

// FuzzTOCText: we see in a text what encoding/json sees.
func FuzzTOCText(f *testing.F) {
	for _, text := range tocTexts {
		f.Add([]byte(text))
	}
	f.Fuzz(sameParse)
}

// TestPlain: each byte, at each place.
func TestPlain(t *testing.T) {
	for at := range 17 {
		for c := range 256 {
			s := []byte(strings.Repeat("~ a!", 5)[:17])
			s[at] = byte(c)
			if got, want := plain(s), c >= ' ' && c != '\\' && c < 0x80; got != want {
				t.Errorf("byte %#x at %d: %t, want %t", c, at, got, want)
			}
			s[16-at] = 0
			if plain(s) {
				t.Errorf("byte %#x at %d hides a zero", c, at)
			}
		}
	}
}
