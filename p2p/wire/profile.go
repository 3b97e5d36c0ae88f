package wire

import (
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/internal/pb"
)

func profile(p p2p.Profile) *pb.Profile {
	out := &pb.Profile{Layer: p.Layer.String(), Image: p.Image.String(), Index: p.Index.String(), Runs: p2p.AppendRuns(nil, p.Runs)}
	if p.Pack != (p2p.Blob{}) {
		out.Pack = blob(p.Pack)
	}
	return out
}

func recalled(m p2p.Recalled) *pb.Recalled {
	out := &pb.Recalled{Layer: m.Layer.String(), Image: m.Image.String()}
	if m.Profile != nil {
		out.Profile = profile(*m.Profile)
	}
	return out
}

func (r *reader) profile(p *pb.Profile) p2p.Profile {
	out := p2p.Profile{Layer: digest.Digest(p.GetLayer()), Image: digest.Digest(p.GetImage()), Index: digest.Digest(p.GetIndex())}
	runs, err := p2p.ParseRuns(p.GetRuns())
	r.check(err)
	out.Runs = runs
	if p.GetPack() != nil {
		out.Pack = r.blob(p.GetPack())
	}
	r.check(out.Validate())
	return out
}

func (r *reader) recalled(m *pb.Recalled) p2p.Recalled {
	out := p2p.Recalled{Layer: r.digest(m.GetLayer()), Image: r.digest(m.GetImage())}
	if m.GetProfile() != nil {
		p := r.profile(m.GetProfile())
		out.Profile = &p
	}
	return out
}
