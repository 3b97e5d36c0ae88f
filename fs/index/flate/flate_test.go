package flate_test

import (
	"bufio"
	"bytes"
	std "compress/flate"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/dfsnapshotter/dfsnapshotter/fs/index/flate"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
)

// samples are data of many kinds.
func samples() map[string][]byte {
	rare := []byte{} // each letter half as often as the one before: codes of 15 bits
	for i := range 18 {
		rare = append(rare, bytes.Repeat([]byte{byte('a' + i)}, 1<<(17-i))...)
	}
	for i := range rare { // so that there is little to match
		j := int(uint32(i)*2654435761) % len(rare)
		if j < 0 {
			j += len(rare)
		}
		rare[i], rare[j] = rare[j], rare[i]
	}
	var near []byte // matches of all small distances and many lengths
	for d := 1; d < 40; d++ {
		for l := 3; l < 300; l += 7 {
			near = append(near, indextest.Random(uint64(d*1000+l), d)...)
			for range l {
				near = append(near, near[len(near)-d])
			}
		}
	}
	var far []byte // and of the largest distances
	for i := range 8 {
		far = append(far, indextest.Random(7, 32<<10)...)
		far = append(far, make([]byte, i)...)
	}
	return map[string][]byte{
		"empty": nil, "byte": {1}, "zeros": make([]byte, 300<<10), "random": indextest.Random(1, 300<<10),
		"text": indextest.Text(2, 500<<10), "rare": rare, "near": near, "far": far,
	}
}

// deflate compresses data; flush is after how many bytes a block ends, if not 0.
func deflate(t testing.TB, data []byte, level, flush int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := std.NewWriter(&b, level)
	for err == nil && flush > 0 && len(data) > flush {
		if _, err = w.Write(data[:flush]); err == nil {
			err = w.Flush()
		}
		data = data[flush:]
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func eachStream(t *testing.T, f func(t *testing.T, data, stream []byte)) {
	for name, data := range samples() {
		for _, level := range []int{std.HuffmanOnly, std.NoCompression, std.BestSpeed, std.DefaultCompression} {
			for _, flush := range []int{0, 10_000} {
				t.Run(fmt.Sprint(name, level, flush), func(t *testing.T) { f(t, data, deflate(t, data, level, flush)) })
			}
		}
	}
}

func TestReader(t *testing.T) {
	const behind = "what follows the stream"
	readers := map[string]func(io.Reader) io.Reader{
		"at once":       func(r io.Reader) io.Reader { return r },
		"half":          iotest.HalfReader,
		"byte by byte":  iotest.OneByteReader,
		"end with data": iotest.DataErrReader,
	}
	eachStream(t, func(t *testing.T, data, stream []byte) {
		var r flate.Reader // used again and again
		for name, slowly := range readers {
			br := bufio.NewReaderSize(slowly(io.MultiReader(bytes.NewReader(stream), bytes.NewReader([]byte(behind)))), 100)
			r.Reset(br, 0, nil)
			got, err := io.ReadAll(slowly(&r))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%s: %d bytes, %v; want %d", name, len(got), err, len(data))
			}
			if rest, err := io.ReadAll(br); string(rest) != behind || err != nil {
				t.Fatalf("%s: %q is left, %v", name, rest, err)
			}
		}
	})
}

// TestResume reads on, with a fresh Reader, from the end of each block.
func TestResume(t *testing.T) {
	eachStream(t, func(t *testing.T, data, stream []byte) {
		src := bytes.NewReader(stream)
		br := bufio.NewReaderSize(src, 1000)
		var r, other flate.Reader
		r.Reset(br, 0, nil)
		done, blocks := 0, 0
		for buf := make([]byte, 7000); ; {
			n, err := r.Read(buf)
			if !bytes.Equal(buf[:n], data[done:done+n]) {
				t.Fatalf("wrong bytes at %d", done)
			}
			done += n
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			bit, ok := r.Between()
			if !ok {
				continue
			}
			blocks++
			if want := data[max(0, done-flate.MaxWindow):done]; !bytes.Equal(r.Window(), want) {
				t.Fatalf("after %d bytes the window is not the last %d", done, len(want))
			}
			at := len(stream) - src.Len() - br.Buffered()
			if bit > 0 {
				at--
			}
			window := bytes.Clone(r.Window())
			for _, form := range []string{"all of the window", "what is needed of it"} {
				other.Reset(bufio.NewReader(bytes.NewReader(stream[at:])), bit, window)
				if rest, err := io.ReadAll(&other); err != nil || !bytes.Equal(rest, data[done:]) {
					t.Fatalf("%s, from bit %d of %d: %d bytes, %v; want %d", form, bit, at, len(rest), err, len(data)-done)
				}
				other.Thin(window)
			}
		}
		if done != len(data) {
			t.Errorf("%d bytes, want %d", done, len(data))
		}
		if len(data) > 200<<10 && len(stream) > 100<<10 && blocks == 0 {
			t.Error("it was never between two blocks")
		}
	})
}

// TestThin: of a window is kept what matches read, and nothing else.
func TestThin(t *testing.T) {
	before := indextest.Random(8, flate.MaxWindow)
	again := before[20_000:20_300]
	after := append(append(indextest.Random(9, 5000), again...), indextest.Random(10, 100<<10)...)
	stream := deflate(t, append(bytes.Clone(before), after...), std.DefaultCompression, len(before))
	src := bytes.NewReader(stream)
	br := bufio.NewReader(src)
	var r flate.Reader
	r.Reset(br, 0, nil)
	if _, err := io.ReadFull(&r, make([]byte, len(before))); err != nil {
		t.Fatal(err)
	}
	if bit, ok := r.Between(); !ok || bit != 0 { // what is random is stored
		t.Fatalf("no block ends with what was flushed, or at bit %d", bit)
	}
	window := bytes.Clone(r.Window())
	r.Reset(br, 0, window)
	if _, err := io.ReadFull(&r, make([]byte, flate.MaxWindow)); err != nil {
		t.Fatal(err)
	}
	r.Thin(window)
	want := make([]byte, len(window))
	copy(want[20_000:], again)
	if !bytes.Equal(window, want) {
		t.Errorf("%d bytes are left of the window, want %d", len(window)-bytes.Count(window, []byte{0}), len(again))
	}
}

// TestCut reads streams that end too soon, or fail: what was there is read.
func TestCut(t *testing.T) {
	data := append(indextest.Text(3, 3000), indextest.Random(4, 100)...)
	var r flate.Reader
	broken := errors.New("broken")
	for _, level := range []int{std.HuffmanOnly, std.NoCompression, std.DefaultCompression} {
		stream := deflate(t, data, level, 700)
		last := 0
		for n := range stream {
			for want, end := range map[error]io.Reader{io.ErrUnexpectedEOF: bytes.NewReader(nil), broken: iotest.ErrReader(broken)} {
				r.Reset(bufio.NewReader(io.MultiReader(bytes.NewReader(stream[:n]), end)), 0, nil)
				got, err := io.ReadAll(&r)
				if !errors.Is(err, want) || !bytes.HasPrefix(data, got) || len(got) < last {
					t.Fatalf("%d of %d bytes: read %d, after %d, %v; want %v", n, len(stream), len(got), last, err, want)
				}
				last = len(got)
			}
		}
		if last < len(data)-100 {
			t.Errorf("level %d: without the last byte only %d bytes of %d", level, last, len(data))
		}
	}
}

// FuzzReader compares with compress/flate.
func FuzzReader(f *testing.F) {
	for _, data := range [][]byte{nil, []byte("hello, hello, hello"), indextest.Text(5, 3000), indextest.Random(6, 300)} {
		for _, level := range []int{std.HuffmanOnly, std.NoCompression, std.DefaultCompression} {
			f.Add(deflate(f, data, level, 1000))
		}
	}
	f.Add([]byte{0x4b, 0x04, 0x02, 0x00})       // fixed codes, a match
	f.Add([]byte{0x05, 0xc0, 0x81, 0, 0, 0, 0}) // codes with one distance
	f.Fuzz(func(t *testing.T, stream []byte) {
		const limit = 1 << 20
		in := bytes.NewReader(stream)
		want, werr := io.ReadAll(io.LimitReader(std.NewReader(in), limit))
		src := bytes.NewReader(stream)
		br := bufio.NewReader(src)
		var r flate.Reader
		r.Reset(br, 0, nil)
		got, err := io.ReadAll(io.LimitReader(&r, limit))
		if (err == nil) != (werr == nil) {
			t.Fatalf("%v; compress/flate: %v", err, werr)
		}
		if !bytes.HasPrefix(got, want) && !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
			t.Fatalf("%d bytes; compress/flate: %d", len(got), len(want))
		}
		if rest := src.Len() + br.Buffered(); err == nil && len(got) < limit && rest != in.Len() {
			t.Errorf("%d bytes are left; compress/flate: %d", rest, in.Len())
		}
	})
}

// BenchmarkReader is the speed of inflating alone, beside compress/flate.
func BenchmarkReader(b *testing.B) {
	data := indextest.Text(2, 8<<20)
	stream := deflate(b, data, std.DefaultCompression, 0)
	b.Run("flate", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		var r flate.Reader
		for b.Loop() {
			r.Reset(bufio.NewReaderSize(bytes.NewReader(stream), 64<<10), 0, nil)
			if _, err := io.Copy(io.Discard, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("compress", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := io.Copy(io.Discard, std.NewReader(bytes.NewReader(stream))); err != nil {
				b.Fatal(err)
			}
		}
	})
}
