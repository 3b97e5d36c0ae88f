package imagetest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Form is how a layer is packed.
type Form string

// The forms that registries hold.
const (
	Tar         Form = "tar"
	Gzip        Form = "gzip"
	EStargz     Form = "estargz"
	Zstd        Form = "zstd"        // one frame
	ZstdChunked Form = "zstdchunked" // a frame per chunk, with a TOC
)

// Forms are all forms an image is usually made in.
var Forms = []Form{Gzip, EStargz, Zstd, ZstdChunked}

// tocDigestAnnotation names the digest of a layer's uncompressed TOC.
const tocDigestAnnotation = estargz.TOCJSONDigestAnnotation

// Blob is a packed layer.
type Blob struct {
	ocispec.Descriptor
	DiffID digest.Digest
	Data   []byte
}

// Pack packs a tar.
func Pack(tar []byte, form Form) (Blob, error) {
	b := Blob{DiffID: digest.FromBytes(tar)}
	var err error
	switch form {
	case Tar:
		b.MediaType, b.Data = ocispec.MediaTypeImageLayer, tar
	case Gzip:
		b.MediaType = ocispec.MediaTypeImageLayerGzip
		b.Data, err = compress(tar, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	case Zstd:
		b.MediaType = ocispec.MediaTypeImageLayerZstd
		b.Data, err = compress(tar, func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		})
	case EStargz:
		b.MediaType = ocispec.MediaTypeImageLayerGzip
		err = b.build(tar)
	case ZstdChunked:
		b.MediaType = ocispec.MediaTypeImageLayerZstd
		meta := map[string]string{}
		err = b.build(tar, estargz.WithCompression(&zstdChunked{
			Compressor: &zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: meta},
		}))
		for k, v := range meta {
			b.Annotations[k] = v
		}
	default:
		err = fmt.Errorf("unknown form %q", form)
	}
	if err != nil {
		return Blob{}, fmt.Errorf("pack as %s: %w", form, err)
	}
	b.Digest, b.Size = digest.FromBytes(b.Data), int64(len(b.Data))
	return b, nil
}

type zstdChunked struct {
	*zstdchunked.Compressor
	zstdchunked.Decompressor
}

// build packs with a TOC. The number of parts is fixed, because it decides
// where chunks end.
func (b *Blob) build(tar []byte, o ...estargz.Option) error {
	o = append(o, estargz.WithParallelism(2))
	e, err := estargz.Build(io.NewSectionReader(bytes.NewReader(tar), 0, int64(len(tar))), o...)
	if err != nil {
		return err
	}
	if b.Data, err = io.ReadAll(e); err != nil {
		return err
	}
	if err := e.Close(); err != nil {
		return err
	}
	b.DiffID = e.DiffID()
	b.Annotations = map[string]string{tocDigestAnnotation: e.TOCDigest().String()}
	return nil
}

func compress(data []byte, open func(io.Writer) (io.WriteCloser, error)) ([]byte, error) {
	var out bytes.Buffer
	w, err := open(&out)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
