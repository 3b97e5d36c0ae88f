package wire

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/internal/pb"
)

const (
	maxInventory  = 1 << 16  // blobs in an Announce, over all its parts
	maxHave       = 16 << 20 // bytes of have-maps in it
	maxTransfers  = 1024
	maxParents    = 1024 // different hosts in a Parents
	maxPerStripe  = 64
	maxStripes    = 64
	maxContent    = 128
	maxRegistry   = 262
	maxRepository = p2p.MaxRepository
	maxToken      = 64 << 10 // some registries' are long
	maxReason     = 512
	maxTime       = 24 * time.Hour
)

// reader turns protobuf into the words of package p2p and keeps the first
// thing that is wrong with it.
type reader struct {
	seen   string // the host's address as the scheduler sees it, without a port
	secure bool   // over TLS
	err    error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format+": %w", append(args, p2p.ErrInvalid)...)
	}
}

func (r *reader) check(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) digest(s string) digest.Digest {
	d := digest.Digest(s)
	r.check(p2p.ValidateDigest(d))
	return d
}

func (r *reader) blob(b *pb.Blob) p2p.Blob {
	blob := p2p.Blob{Digest: digest.Digest(b.GetDigest()), Size: b.GetSize()}
	r.check(blob.Validate())
	return blob
}

func (r *reader) piece(n uint32) int {
	if n >= p2p.MaxPieces {
		r.fail("piece %d", n)
		return 0
	}
	return int(n)
}

func (r *reader) pieces(list []uint32) []int {
	if len(list) > p2p.MaxPieces {
		r.fail("%d pieces", len(list))
		return nil
	}
	var out []int
	for _, n := range list {
		out = append(out, r.piece(n))
	}
	return out
}

func (r *reader) hostID(s string) p2p.HostID {
	id := p2p.HostID(s)
	r.check(id.Validate())
	return id
}

func (r *reader) host(h *pb.Host) p2p.Host {
	host := p2p.Host{
		ID: p2p.HostID(h.GetId()), Addr: r.addr(h.GetAddr()), Seed: h.GetSeed(),
		IDC: h.GetIdc(), Location: h.GetLocation(), Slots: int(h.GetSlots()), Share: h.GetShare(),
	}
	r.check(host.Validate())
	return host
}

// addr puts the address that the scheduler sees where the host left it open.
func (r *reader) addr(addr string) string {
	if r.seen == "" {
		return addr
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr // Validate says so
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return addr
	}
	return net.JoinHostPort(r.seen, port)
}

func (r *reader) origin(o *pb.Origin) p2p.Origin {
	out := p2p.Origin{Registry: r.text(o.GetRegistry(), maxRegistry), Repository: r.text(o.GetRepository(), maxRepository)}
	if token := r.text(o.GetToken(), maxToken); r.secure {
		out.Token = token
	}
	return out
}

// text takes printable ASCII of at most limit bytes.
func (r *reader) text(s string, limit int) string {
	if len(s) > limit {
		r.fail("text of %d bytes", len(s))
	} else if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
		r.fail("text with odd characters") // which may be a token, so it is not shown
	}
	return s
}

func (r *reader) priority(p pb.Priority) p2p.Priority {
	if p < pb.Priority_PRIORITY_ON_DEMAND || p > pb.Priority_PRIORITY_BACKGROUND {
		r.fail("priority %d", p)
	}
	return p2p.Priority(p - pb.Priority_PRIORITY_ON_DEMAND)
}

func (r *reader) failure(f pb.Failure) p2p.Failure {
	if f < pb.Failure_FAILURE_NONE || f > pb.Failure_FAILURE_REFUSED {
		r.fail("failure %d", f)
	}
	return p2p.Failure(f)
}

func (r *reader) duration(us int64) time.Duration {
	if us < 0 || us > maxTime.Microseconds() {
		r.fail("%d microseconds", us)
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

func (r *reader) sum(b []byte) (s p2p.Sum) {
	if copy(s[:], b) != len(b) || len(b) != len(s) {
		r.fail("sum of %d bytes", len(b))
	}
	return s
}

func (r *reader) sums(first int, b []byte) []p2p.Sum {
	const size = len(p2p.Sum{})
	n := len(b) / size
	if len(b)%size != 0 || n > p2p.MaxPieces-first {
		r.fail("sums in %d bytes", len(b))
		return nil
	}
	sums := make([]p2p.Sum, n)
	for i := range sums {
		copy(sums[i][:], b[i*size:])
	}
	return sums
}

func (r *reader) content(c *pb.Content) p2p.Content {
	if n := len(c.GetData()); n == 0 || n > maxContent {
		r.fail("content of %d bytes", n)
	}
	return p2p.Content{Digest: r.digest(c.GetDigest()), Data: c.GetData()}
}

func (r *reader) digests(d *pb.Digests) p2p.Digests {
	first := r.piece(d.GetFirst())
	return p2p.Digests{Digest: r.digest(d.GetDigest()), First: first, Sums: r.sums(first, d.GetSums()), Verified: d.GetVerified()}
}
