package indextest

import (
	"archive/tar"
	"bytes"
	"fmt"
)

// Unholdable returns corner cases that containerd unpacks from a tar, but that
// the tools for layers with a table of contents cannot hold: sparse files, a
// name that JSON cannot write, a file that is linked and then replaced.
func Unholdable() []Entry {
	return append(Sparse(),
		File("invalid\xff\xfeutf8", []byte("bytes")),
		File("replaced/linked", []byte("the first, still linked")),
		Link("replaced/link", "replaced/linked"),
		File("replaced/linked", []byte("the second")),
	)
}

// Sparse returns two sparse files, in GNU's old form and in the PAX form 1.0,
// both of SparseContent.
func Sparse() []Entry {
	return []Entry{{Raw: gnuSparse("sparse-gnu")}, {Raw: paxSparse("sparse-pax")}}
}

var sparseRuns = []struct {
	off  int
	data string
}{{0, "head"}, {100_000, "middle"}, {299_996, "tail"}}

// SparseContent is what the files of Sparse hold.
func SparseContent() []byte {
	b := make([]byte, 300_000)
	for _, r := range sparseRuns {
		copy(b[r.off:], r.data)
	}
	return b
}

func sparseData() (data []byte) {
	for _, r := range sparseRuns {
		data = append(data, r.data...)
	}
	return data
}

func gnuSparse(name string) []byte {
	data := sparseData()
	head := header(tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644, ModTime: Time, Format: tar.FormatGNU})
	head[156] = tar.TypeGNUSparse
	at := head[386:]
	for _, r := range sparseRuns {
		copy(at, fmt.Sprintf("%011o\x00%011o\x00", r.off, len(r.data)))
		at = at[24:]
	}
	copy(head[483:], fmt.Sprintf("%011o\x00", len(SparseContent())))
	checksum(head)
	return pad(append(head, data...))
}

func paxSparse(name string) []byte {
	var list bytes.Buffer
	fmt.Fprintf(&list, "%d\n", len(sparseRuns))
	for _, r := range sparseRuns {
		fmt.Fprintf(&list, "%d\n%d\n", r.off, len(r.data))
	}
	data := append(pad(list.Bytes()), sparseData()...)
	var records []byte
	for _, kv := range [][2]string{
		{"GNU.sparse.major", "1"},
		{"GNU.sparse.minor", "0"},
		{"GNU.sparse.name", name},
		{"GNU.sparse.realsize", fmt.Sprint(len(SparseContent()))},
	} {
		records = append(records, paxRecord(kv[0], kv[1])...)
	}
	x := header(tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders/" + name, Size: int64(len(records)), Mode: 0o644, Format: tar.FormatUSTAR})
	x[156] = tar.TypeXHeader
	checksum(x)
	b := pad(append(x, records...))
	b = append(b, header(tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/" + name, Size: int64(len(data)), Mode: 0o644, ModTime: Time, Format: tar.FormatUSTAR})...)
	return pad(append(b, data...))
}

func header(h tar.Header) []byte {
	var b bytes.Buffer
	must(tar.NewWriter(&b).WriteHeader(&h))
	return b.Bytes()
}

// checksum sets the checksum of a header block.
func checksum(head []byte) {
	copy(head[148:156], "        ")
	sum := 0
	for _, c := range head[:512] {
		sum += int(c)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func paxRecord(k, v string) string {
	n := len(k) + len(v) + 3
	for len(fmt.Sprint(n))+len(k)+len(v)+3 != n {
		n = len(fmt.Sprint(n)) + len(k) + len(v) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", n, k, v)
}

func pad(b []byte) []byte {
	for len(b)%512 != 0 {
		b = append(b, 0)
	}
	return b
}
