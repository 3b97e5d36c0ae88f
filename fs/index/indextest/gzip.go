package indextest

import (
	"bytes"
	"compress/gzip"
	"io"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Plain returns the tar in the forms that have no table of contents: as it is,
// as gzip in several ways, and as one zstd frame.
func Plain(tarball []byte) []Layer {
	mixed := Gzip(tarball, GzipOptions{Level: gzip.DefaultCompression, Member: 60_000, Stored: 3})
	mixed.Name = "gzip-mixed"
	members := Gzip(tarball, GzipOptions{Level: gzip.BestSpeed, Member: 100_000})
	members.Name = "gzip-members"
	stored := Gzip(tarball, GzipOptions{Level: gzip.NoCompression})
	stored.Name = "gzip-stored"
	return []Layer{
		Uncompressed(tarball),
		Gzip(tarball, GzipOptions{Level: gzip.DefaultCompression}),
		members,
		stored,
		mixed,
		Zstd(tarball),
	}
}

// Uncompressed returns the tar as a layer.
func Uncompressed(tarball []byte) Layer {
	return layer("tar", ocispec.MediaTypeImageLayer, tarball, tarball)
}

// GzipOptions say how a tar is compressed.
type GzipOptions struct {
	Level  int // of compress/gzip; gzip.NoCompression writes stored blocks
	Member int // bytes of tar in one gzip member; 0: all
	Stored int // every Stored-th member has stored blocks; 0: none
	Flush  int // bytes of tar after which a block ends; 0: as the encoder likes
}

// Gzip returns the tar as a gzip layer.
func Gzip(tarball []byte, o GzipOptions) Layer {
	if o.Member == 0 {
		o.Member = max(1, len(tarball))
	}
	if o.Flush == 0 {
		o.Flush = o.Member
	}
	var b bytes.Buffer
	for i, rest := 1, tarball; i == 1 || len(rest) > 0; i++ {
		n := min(o.Member, len(rest))
		level := o.Level
		if o.Stored > 0 && i%o.Stored == 0 {
			level = gzip.NoCompression
		}
		gzipMember(&b, rest[:n], level, o.Flush)
		rest = rest[n:]
	}
	return layer("gzip", ocispec.MediaTypeImageLayerGzip, b.Bytes(), tarball)
}

func gzipMember(w io.Writer, data []byte, level, flush int) {
	z, err := gzip.NewWriterLevel(w, level)
	must(err)
	for len(data) > flush {
		_, err = z.Write(data[:flush])
		must(err)
		must(z.Flush())
		data = data[flush:]
	}
	_, err = z.Write(data)
	must(err)
	must(z.Close())
}

// Zstd returns the tar as a layer of one zstd frame.
func Zstd(tarball []byte) Layer {
	return layer("zstd", ocispec.MediaTypeImageLayerZstd, zstdFrame(tarball), tarball)
}

func zstdFrame(data []byte) []byte {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	must(err)
	defer func() { must(z.Close()) }()
	return z.EncodeAll(data, nil)
}
