package wire

import (
	"fmt"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/internal/pb"
)

const (
	// MaxMessage is the size of the largest message either side takes.
	MaxMessage = 1 << 20
	// partSize is about where a message is cut into parts.
	partSize   = 256 << 10
	sumsInPart = 4096 // more in one message a scheduler refuses
)

// writer turns the words of package p2p into protobuf.
type writer struct{ secure bool }

// toScheduler writes what a host says, in one part or more.
func (w writer) toScheduler(m p2p.Message) []*pb.ToScheduler {
	var parts []*pb.ToScheduler
	switch m := m.(type) {
	case p2p.Announce:
		return announce(m)
	case p2p.Digests:
		for _, d := range digests(m) {
			parts = append(parts, &pb.ToScheduler{Message: &pb.ToScheduler_Digests{Digests: d}})
		}
		return parts
	}
	return append(parts, w.hostMessage(m))
}

func (w writer) hostMessage(m p2p.Message) *pb.ToScheduler {
	out := new(pb.ToScheduler)
	switch m := m.(type) {
	case p2p.Inventory:
		out.Message = &pb.ToScheduler_Inventory{Inventory: inventory(m)}
	case p2p.Want:
		out.Message = &pb.ToScheduler_Want{Want: &pb.Want{
			Blob: blob(m.Blob), Origin: w.origin(m.Origin), Lazy: m.Lazy, Priority: pb.Priority(m.Priority) + pb.Priority_PRIORITY_ON_DEMAND,
		}}
	case p2p.Unwant:
		out.Message = &pb.ToScheduler_Unwant{Unwant: &pb.Unwant{Digest: m.Digest.String()}}
	case p2p.Progress:
		out.Message = &pb.ToScheduler_Progress{Progress: progress(m)}
	case p2p.Wrong:
		out.Message = &pb.ToScheduler_Wrong{Wrong: &pb.Wrong{Digest: m.Digest.String(), Piece: uint32(m.Piece), Parent: string(m.Parent), Got: m.Got[:]}}
	case p2p.Verified:
		out.Message = &pb.ToScheduler_Verified{Verified: &pb.Verified{Digest: m.Digest.String()}}
	case p2p.Spoiled:
		out.Message = &pb.ToScheduler_Spoiled{Spoiled: &pb.Spoiled{Digest: m.Digest.String()}}
	case p2p.Checked:
		out.Message = &pb.ToScheduler_Checked{Checked: &pb.Checked{
			Digest: m.Digest.String(), Piece: uint32(m.Piece), Parent: string(m.Parent), Failed: pb.Failure(m.Failed),
		}}
	case p2p.Content:
		out.Message = &pb.ToScheduler_Content{Content: &pb.Content{Digest: m.Digest.String(), Data: m.Data}}
	case p2p.Publish:
		out.Message = &pb.ToScheduler_Publish{Publish: &pb.Publish{Index: index(m.Index)}}
	case p2p.Lookup:
		out.Message = &pb.ToScheduler_Lookup{Lookup: &pb.Lookup{Layers: texts(m.Layers), Version: uint32(m.Version)}}
	case p2p.Distrust:
		out.Message = &pb.ToScheduler_Distrust{Distrust: distrust(m)}
	case p2p.Learn:
		out.Message = &pb.ToScheduler_Learn{Learn: &pb.Learn{Profile: profile(m.Profile), Again: m.Again}}
	case p2p.Recall:
		out.Message = &pb.ToScheduler_Recall{Recall: &pb.Recall{Layer: m.Layer.String(), Image: m.Image.String()}}
	case p2p.Done:
		out.Message = &pb.ToScheduler_Done{Done: &pb.Done{Id: m.ID, Failed: plain(m.Failed)}}
	default:
		panic(fmt.Sprintf("wire: a host does not say %T", m))
	}
	return out
}

func (w writer) command(c p2p.Command) *pb.Command {
	return &pb.Command{Id: c.ID, Blob: blob(c.Blob), Origin: w.origin(c.Origin), Remove: c.Remove, Stop: c.Stop}
}

// toHost writes what a scheduler says, in one part or more.
func (w writer) toHost(m p2p.Message) []*pb.ToHost {
	var parts []*pb.ToHost
	if m, ok := m.(p2p.Digests); ok {
		for _, d := range digests(m) {
			parts = append(parts, &pb.ToHost{Message: &pb.ToHost_Digests{Digests: d}})
		}
		return parts
	}
	return append(parts, w.schedulerMessage(m))
}

func (w writer) schedulerMessage(m p2p.Message) *pb.ToHost {
	out := new(pb.ToHost)
	switch m := m.(type) {
	case p2p.Parents:
		out.Message = &pb.ToHost_Parents{Parents: parents(m)}
	case p2p.Fetch:
		out.Message = &pb.ToHost_Fetch{Fetch: &pb.Fetch{Blob: blob(m.Blob), Origin: w.origin(m.Origin), Whole: m.Whole, Background: m.Background}}
	case p2p.Lease:
		out.Message = &pb.ToHost_Lease{Lease: &pb.Lease{Digest: m.Digest.String(), Pieces: pieces(m.Pieces), ForUs: m.For.Microseconds()}}
	case p2p.Source:
		out.Message = &pb.ToHost_Source{Source: &pb.Source{Digest: m.Digest.String(), Allowed: m.Allowed}}
	case p2p.Renew:
		out.Message = &pb.ToHost_Renew{Renew: &pb.Renew{Digest: m.Digest.String()}}
	case p2p.Content:
		out.Message = &pb.ToHost_Content{Content: &pb.Content{Digest: m.Digest.String(), Data: m.Data}}
	case p2p.Ask:
		out.Message = &pb.ToHost_Ask{Ask: &pb.Ask{Digest: m.Digest.String()}}
	case p2p.Check:
		out.Message = &pb.ToHost_Check{Check: &pb.Check{Digest: m.Digest.String(), Piece: uint32(m.Piece), Parent: host(m.Parent)}}
	case p2p.Audit:
		out.Message = &pb.ToHost_Audit{Audit: &pb.Audit{Digest: m.Digest.String(), Pieces: pieces(m.Pieces), Reason: m.Reason}}
	case p2p.Command:
		out.Message = &pb.ToHost_Command{Command: w.command(m)}
	case p2p.Gone:
		out.Message = &pb.ToHost_Gone{Gone: &pb.Gone{Host: string(m.Host), Reason: m.Reason}}
	case p2p.Indexes:
		found := &pb.Indexes{Layers: texts(m.Layers)}
		for _, x := range m.Found {
			found.Found = append(found.Found, index(x))
		}
		out.Message = &pb.ToHost_Indexes{Indexes: found}
	case p2p.Distrust:
		out.Message = &pb.ToHost_Distrust{Distrust: distrust(m)}
	case p2p.Recalled:
		out.Message = &pb.ToHost_Recalled{Recalled: recalled(m)}
	default:
		panic(fmt.Sprintf("wire: a scheduler does not say %T", m))
	}
	return out
}

func announce(m p2p.Announce) []*pb.ToScheduler {
	part := &pb.Announce{Host: host(m.Host)}
	out := []*pb.ToScheduler{{Message: &pb.ToScheduler_Announce{Announce: part}}}
	size := 0
	for _, i := range m.Inventory {
		inv := inventory(i)
		if size += len(inv.Have) + len(inv.Blob.Digest) + 32; size > partSize {
			size, part.More = 0, true
			part = &pb.Announce{}
			out = append(out, &pb.ToScheduler{Message: &pb.ToScheduler_Announce{Announce: part}})
		}
		part.Inventory = append(part.Inventory, inv)
	}
	return out
}

func digests(m p2p.Digests) []*pb.Digests {
	var parts []*pb.Digests
	for first, sums := m.First, m.Sums; ; {
		n := min(len(sums), sumsInPart)
		part := &pb.Digests{Digest: m.Digest.String(), First: uint32(first), Sums: make([]byte, 0, n*len(p2p.Sum{})), Verified: m.Verified}
		for i := range sums[:n] {
			part.Sums = append(part.Sums, sums[i][:]...)
		}
		parts = append(parts, part)
		if first, sums = first+n, sums[n:]; len(sums) == 0 {
			return parts
		}
	}
}

func parents(m p2p.Parents) *pb.Parents {
	out := &pb.Parents{Digest: m.Digest.String()}
	position := map[p2p.Host]uint32{}
	for _, stripe := range m.Stripes {
		s := new(pb.Parents_Stripe)
		for _, h := range stripe {
			i, ok := position[h]
			if !ok {
				i = uint32(len(out.Hosts))
				position[h] = i
				out.Hosts = append(out.Hosts, host(h))
			}
			s.Hosts = append(s.Hosts, i)
		}
		out.Stripes = append(out.Stripes, s)
	}
	return out
}

func progress(m p2p.Progress) *pb.Progress {
	out := &pb.Progress{Digest: m.Digest.String(), Got: pieces(m.Got)}
	for _, t := range m.From {
		out.From = append(out.From, &pb.Transfer{
			Parent: string(t.Parent), Bytes: t.Bytes, TookUs: t.Took.Microseconds(), Failed: pb.Failure(t.Failed),
		})
	}
	return out
}

func pieces(list []int) []uint32 {
	var out []uint32
	for _, i := range list {
		out = append(out, uint32(i))
	}
	return out
}

func blob(b p2p.Blob) *pb.Blob { return &pb.Blob{Digest: b.Digest.String(), Size: b.Size} }

func inventory(i p2p.Inventory) *pb.Inventory {
	return &pb.Inventory{Blob: blob(i.Blob), Have: i.Have.Bytes(), Verified: i.Verified}
}

func host(h p2p.Host) *pb.Host {
	return &pb.Host{
		Id: string(h.ID), Addr: h.Addr, Seed: h.Seed, Idc: h.IDC, Location: h.Location, Slots: uint32(h.Slots), Share: h.Share,
	}
}

// origin leaves out the token where others could read it.
func (w writer) origin(o p2p.Origin) *pb.Origin {
	out := &pb.Origin{Registry: o.Registry, Repository: o.Repository}
	if w.secure {
		out.Token = o.Token
	}
	return out
}
