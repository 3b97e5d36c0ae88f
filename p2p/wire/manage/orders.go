package manage

import (
	"fmt"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage/internal/pb"
)

// Place is where a node is.
type Place struct{ Hostname, IDC, Location string }

// Hello is what a node says of itself.
type Hello struct {
	Address string // host:port that others dial; without a host: where its stream comes from
	Version string // of its program
	Place   Place
}

// Orders are all that a node is told.
type Orders struct {
	Schedulers []string     `json:"schedulers"` // host:port, the same for all nodes
	Blocked    []p2p.HostID `json:"blocked"`    // to be refused
	Limits     Limits       `json:"limits"`
}

// Limits bound one host; 0: its own ones hold.
type Limits struct {
	Download       int64 `json:"download"` // bytes per second
	Upload         int64 `json:"upload"`
	Origin         int64 `json:"origin"`
	OriginRequests int   `json:"origin_requests"` // to one registry at a time
}

// Traffic is bytes of blobs.
type Traffic struct {
	Origin int64 // came from origins
	Peers  int64 // came from other hosts
	Store  int64 // were there when they were asked for
	Sent   int64 // went to other hosts
}

// Sub returns what t is more than o.
func (t Traffic) Sub(o Traffic) Traffic {
	return Traffic{t.Origin - o.Origin, t.Peers - o.Peers, t.Store - o.Store, t.Sent - o.Sent}
}

// Load is what a node has moved in some time, and how busy it is.
type Load struct {
	Span    time.Duration
	Moved   Traffic
	Kept    int64 // bytes of blobs on its disk
	Uploads int64 // bodies on their way to other hosts
	Waiting int64 // reads that wait for bytes
}

// Bounds of what comes in.
const (
	maxText       = 256
	maxSchedulers = 1000
	maxBlocked    = 100_000
	maxRequests   = 1000
	maxMoved      = 1 << 50 // bytes in one Load, which nobody moves
	maxCount      = 1 << 20
	maxSpan       = 10 * 365 * 24 * time.Hour
)

func (p Place) proto() *pb.Place {
	return &pb.Place{Hostname: p.Hostname, Idc: p.IDC, Location: p.Location}
}

func place(m *pb.Place) (Place, error) {
	p := Place{m.GetHostname(), m.GetIdc(), m.GetLocation()}
	return p, short(p.Hostname, p.IDC, p.Location)
}

// short reports texts that are too long or could spoil a list or a log.
func short(texts ...string) error {
	for _, s := range texts {
		if len(s) > maxText {
			return fmt.Errorf("%w: a text of %d bytes", ErrInvalid, len(s))
		}
		for _, r := range s {
			if r < ' ' || r > '~' {
				return fmt.Errorf("%w: %q is not plain ASCII", ErrInvalid, s)
			}
		}
	}
	return nil
}

func hello(m *pb.Hello) (h Hello, err error) {
	h = Hello{Address: m.GetAddress(), Version: m.GetVersion()}
	if h.Place, err = place(m.GetPlace()); err != nil {
		return h, err
	}
	return h, short(h.Address, h.Version)
}

func (o Orders) proto() *pb.Orders {
	m := &pb.Orders{Schedulers: o.Schedulers, Limits: &pb.Limits{
		Download: o.Limits.Download, Upload: o.Limits.Upload, Origin: o.Limits.Origin, OriginRequests: int64(o.Limits.OriginRequests),
	}}
	for _, b := range o.Blocked {
		m.Blocked = append(m.Blocked, string(b))
	}
	return m
}

func orders(m *pb.Orders) (o Orders, err error) {
	if len(m.GetSchedulers()) > maxSchedulers || len(m.GetBlocked()) > maxBlocked {
		return o, fmt.Errorf("%w: %d schedulers, %d blocked", ErrInvalid, len(m.GetSchedulers()), len(m.GetBlocked()))
	}
	o.Schedulers = m.GetSchedulers()
	if err := short(o.Schedulers...); err != nil {
		return o, err
	}
	for _, b := range m.GetBlocked() {
		if err := p2p.HostID(b).Validate(); err != nil {
			return o, fmt.Errorf("%w: blocked: %w", ErrInvalid, err)
		}
		o.Blocked = append(o.Blocked, p2p.HostID(b))
	}
	l := m.GetLimits()
	o.Limits = Limits{l.GetDownload(), l.GetUpload(), l.GetOrigin(), int(l.GetOriginRequests())}
	if min(o.Limits.Download, o.Limits.Upload, o.Limits.Origin, l.GetOriginRequests()) < 0 || l.GetOriginRequests() > maxRequests {
		return o, fmt.Errorf("%w: limits %+v", ErrInvalid, o.Limits)
	}
	return o, nil
}

func (l Load) proto() *pb.Load {
	return &pb.Load{
		SpanMs: l.Span.Milliseconds(), Origin: l.Moved.Origin, Peers: l.Moved.Peers, Store: l.Moved.Store, Sent: l.Moved.Sent,
		Kept: l.Kept, Uploads: l.Uploads, Waiting: l.Waiting,
	}
}

func load(m *pb.Load) (Load, error) {
	t := Traffic{m.GetOrigin(), m.GetPeers(), m.GetStore(), m.GetSent()}
	if min(t.Origin, t.Peers, t.Store, t.Sent, m.GetKept()) < 0 || max(t.Origin, t.Peers, t.Store, t.Sent) > maxMoved ||
		min(m.GetUploads(), m.GetWaiting()) < 0 || max(m.GetUploads(), m.GetWaiting()) > maxCount || m.GetSpanMs() < 1 || m.GetSpanMs() > maxSpan.Milliseconds() {
		return Load{}, fmt.Errorf("%w: load %v", ErrInvalid, m)
	}
	return Load{time.Duration(m.GetSpanMs()) * time.Millisecond, t, m.GetKept(), m.GetUploads(), m.GetWaiting()}, nil
}
