package wire

import (
	"errors"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/internal/pb"
)

// ErrUnknown reports a message of a kind that this version does not know:
// go on with the next.
var ErrUnknown = errors.New("message of an unknown kind")

// fromHost reads what a host sent, an Announce excepted.
func (r *reader) fromHost(m *pb.ToScheduler) (p2p.Message, error) {
	msg := r.hostMessage(m)
	if r.err != nil {
		return nil, r.err
	}
	if msg == nil {
		return nil, ErrUnknown
	}
	return msg, nil
}

func (r *reader) hostMessage(m *pb.ToScheduler) p2p.Message {
	switch m := m.GetMessage().(type) {
	case *pb.ToScheduler_Inventory:
		return r.inventory(m.Inventory)
	case *pb.ToScheduler_Want:
		w := m.Want
		return p2p.Want{Blob: r.blob(w.GetBlob()), Origin: r.origin(w.GetOrigin()), Lazy: w.GetLazy(), Priority: r.priority(w.GetPriority())}
	case *pb.ToScheduler_Unwant:
		return p2p.Unwant{Digest: r.digest(m.Unwant.GetDigest())}
	case *pb.ToScheduler_Progress:
		return r.progress(m.Progress)
	case *pb.ToScheduler_Wrong:
		w := m.Wrong
		return p2p.Wrong{Digest: r.digest(w.GetDigest()), Piece: r.piece(w.GetPiece()), Parent: r.hostID(w.GetParent()), Got: r.sum(w.GetGot())}
	case *pb.ToScheduler_Verified:
		return p2p.Verified{Digest: r.digest(m.Verified.GetDigest())}
	case *pb.ToScheduler_Spoiled:
		return p2p.Spoiled{Digest: r.digest(m.Spoiled.GetDigest())}
	case *pb.ToScheduler_Checked:
		c := m.Checked
		return p2p.Checked{Digest: r.digest(c.GetDigest()), Piece: r.piece(c.GetPiece()), Parent: r.hostID(c.GetParent()), Failed: r.failure(c.GetFailed())}
	case *pb.ToScheduler_Digests:
		return r.digests(m.Digests)
	case *pb.ToScheduler_Content:
		return r.content(m.Content)
	case *pb.ToScheduler_Publish:
		return p2p.Publish{Index: r.index(m.Publish.GetIndex())}
	case *pb.ToScheduler_Lookup:
		return p2p.Lookup{Layers: r.layers(m.Lookup.GetLayers()), Version: int(m.Lookup.GetVersion())}
	case *pb.ToScheduler_Distrust:
		return r.distrust(m.Distrust)
	case *pb.ToScheduler_Learn:
		return p2p.Learn{Profile: r.profile(m.Learn.GetProfile()), Again: m.Learn.GetAgain()}
	case *pb.ToScheduler_Recall:
		return p2p.Recall{Layer: r.digest(m.Recall.GetLayer()), Image: r.digest(m.Recall.GetImage())}
	case *pb.ToScheduler_Done:
		return p2p.Done{ID: m.Done.GetId(), Failed: r.text(m.Done.GetFailed(), maxReason)}
	}
	return nil
}

// announce reads a part of an Announce. Only the first one names the host.
func (r *reader) announce(a *pb.Announce, first bool) (p2p.Announce, error) {
	var out p2p.Announce
	if first {
		out.Host = r.host(a.GetHost())
	} else if a.GetHost() != nil {
		r.fail("announce within an announce")
	}
	for _, i := range a.GetInventory() {
		out.Inventory = append(out.Inventory, r.inventory(i))
	}
	return out, r.err
}

func (r *reader) inventory(i *pb.Inventory) p2p.Inventory {
	out := p2p.Inventory{Blob: r.blob(i.GetBlob()), Verified: i.GetVerified()}
	if r.err == nil {
		out.Have, r.err = p2p.HaveFrom(out.Blob.Pieces(), i.GetHave())
	}
	return out
}

func (r *reader) progress(p *pb.Progress) p2p.Progress {
	out := p2p.Progress{Digest: r.digest(p.GetDigest()), Got: r.pieces(p.GetGot())}
	if n := len(p.GetFrom()); n > maxTransfers {
		r.fail("%d transfers", n)
		return out
	}
	for _, t := range p.GetFrom() {
		tr := p2p.Transfer{Bytes: t.GetBytes(), Took: r.duration(t.GetTookUs()), Failed: r.failure(t.GetFailed())}
		if t.GetParent() != "" {
			tr.Parent = r.hostID(t.GetParent())
		}
		if tr.Bytes < 0 || tr.Bytes > p2p.MaxSize {
			r.fail("transfer of %d bytes", tr.Bytes)
		}
		out.From = append(out.From, tr)
	}
	return out
}

// fromScheduler reads what a scheduler sent.
func (r *reader) fromScheduler(m *pb.ToHost) (p2p.Message, error) {
	msg := r.schedulerMessage(m)
	if r.err != nil {
		return nil, r.err
	}
	if msg == nil {
		return nil, ErrUnknown
	}
	return msg, nil
}

func (r *reader) schedulerMessage(m *pb.ToHost) p2p.Message {
	switch m := m.GetMessage().(type) {
	case *pb.ToHost_Parents:
		return r.parents(m.Parents)
	case *pb.ToHost_Fetch:
		f := m.Fetch
		return p2p.Fetch{Blob: r.blob(f.GetBlob()), Origin: r.origin(f.GetOrigin()), Whole: f.GetWhole(), Background: f.GetBackground()}
	case *pb.ToHost_Lease:
		l := m.Lease
		return p2p.Lease{Digest: r.digest(l.GetDigest()), Pieces: r.pieces(l.GetPieces()), For: r.duration(l.GetForUs())}
	case *pb.ToHost_Source:
		return p2p.Source{Digest: r.digest(m.Source.GetDigest()), Allowed: m.Source.GetAllowed()}
	case *pb.ToHost_Renew:
		return p2p.Renew{Digest: r.digest(m.Renew.GetDigest())}
	case *pb.ToHost_Content:
		return r.content(m.Content)
	case *pb.ToHost_Ask:
		return p2p.Ask{Digest: r.digest(m.Ask.GetDigest())}
	case *pb.ToHost_Check:
		c := m.Check
		return p2p.Check{Digest: r.digest(c.GetDigest()), Piece: r.piece(c.GetPiece()), Parent: r.host(c.GetParent())}
	case *pb.ToHost_Audit:
		return p2p.Audit{Digest: r.digest(m.Audit.GetDigest()), Pieces: r.pieces(m.Audit.GetPieces()), Reason: r.text(m.Audit.GetReason(), maxReason)}
	case *pb.ToHost_Command:
		return r.command(m.Command)
	case *pb.ToHost_Gone:
		return p2p.Gone{Host: r.hostID(m.Gone.GetHost()), Reason: r.text(m.Gone.GetReason(), maxReason)}
	case *pb.ToHost_Digests:
		return r.digests(m.Digests)
	case *pb.ToHost_Indexes:
		return r.indexes(m.Indexes)
	case *pb.ToHost_Distrust:
		return r.distrust(m.Distrust)
	case *pb.ToHost_Recalled:
		return r.recalled(m.Recalled)
	}
	return nil
}

func (r *reader) command(c *pb.Command) p2p.Command {
	return p2p.Command{ID: c.GetId(), Blob: r.blob(c.GetBlob()), Origin: r.origin(c.GetOrigin()), Remove: c.GetRemove(), Stop: c.GetStop()}
}

func (r *reader) parents(p *pb.Parents) p2p.Parents {
	out := p2p.Parents{Digest: r.digest(p.GetDigest())}
	if len(p.GetHosts()) > maxParents || len(p.GetStripes()) > maxStripes {
		r.fail("%d parents in %d stripes", len(p.GetHosts()), len(p.GetStripes()))
		return out
	}
	var hosts []p2p.Host
	for _, h := range p.GetHosts() {
		hosts = append(hosts, r.host(h))
	}
	for _, s := range p.GetStripes() {
		if len(s.GetHosts()) > maxPerStripe {
			r.fail("%d parents of a stripe", len(s.GetHosts()))
			return out
		}
		var stripe []p2p.Host
		for _, i := range s.GetHosts() {
			if int64(i) >= int64(len(hosts)) {
				r.fail("parent %d of %d", i, len(hosts))
				return out
			}
			stripe = append(stripe, hosts[i])
		}
		out.Stripes = append(out.Stripes, stripe)
	}
	return out
}
