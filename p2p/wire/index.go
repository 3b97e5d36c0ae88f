package wire

import (
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/internal/pb"
)

const (
	maxCertificate = 8 << 10
	maxSignature   = 1 << 10
)

func index(x p2p.Index) *pb.Index {
	return &pb.Index{
		Layer: x.Layer.String(), Version: uint32(x.Version), Id: x.ID.String(), DiffId: x.DiffID.String(), Pack: blob(x.Pack), Head: x.Head,
		Certificate: x.Proof.Certificate, Signature: x.Proof.Signature,
	}
}

func texts(digests []digest.Digest) []string {
	out := make([]string, len(digests))
	for i, d := range digests {
		out[i] = d.String()
	}
	return out
}

func distrust(m p2p.Distrust) *pb.Distrust {
	return &pb.Distrust{Layer: m.Layer.String(), Id: m.ID.String(), Reason: m.Reason, Containers: m.Containers}
}

func (r *reader) index(x *pb.Index) p2p.Index {
	out := p2p.Index{
		Layer: digest.Digest(x.GetLayer()), Version: int(x.GetVersion()), ID: digest.Digest(x.GetId()), DiffID: digest.Digest(x.GetDiffId()),
		Pack: r.blob(x.GetPack()), Head: x.GetHead(), Proof: p2p.Proof{Certificate: x.GetCertificate(), Signature: x.GetSignature()},
	}
	if len(out.Proof.Certificate) > maxCertificate || len(out.Proof.Signature) > maxSignature {
		r.fail("certificate of %d bytes, signature of %d", len(out.Proof.Certificate), len(out.Proof.Signature))
	}
	r.check(out.Validate())
	return out
}

func (r *reader) layers(list []string) (out []digest.Digest) {
	if len(list) > p2p.MaxLookup {
		r.fail("%d layers", len(list))
		return nil
	}
	for _, d := range list {
		out = append(out, r.digest(d))
	}
	return out
}

func (r *reader) indexes(m *pb.Indexes) p2p.Indexes {
	out := p2p.Indexes{Layers: r.layers(m.GetLayers())}
	if len(m.GetFound()) > len(out.Layers) {
		r.fail("%d indexes of %d layers", len(m.GetFound()), len(out.Layers))
		return out
	}
	for _, x := range m.GetFound() {
		out.Found = append(out.Found, r.index(x))
	}
	return out
}

func (r *reader) distrust(m *pb.Distrust) p2p.Distrust {
	if len(m.GetContainers()) > p2p.MaxContainers {
		r.fail("%d containers", len(m.GetContainers()))
		return p2p.Distrust{}
	}
	for _, name := range m.GetContainers() {
		r.text(name, p2p.MaxContainerName)
	}
	return p2p.Distrust{
		Layer: r.digest(m.GetLayer()), ID: r.digest(m.GetId()), Reason: r.text(m.GetReason(), maxReason), Containers: m.GetContainers(),
	}
}
