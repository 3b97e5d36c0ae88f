package wire

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/internal/pb"
)

var (
	digestX = "sha256:" + strings.Repeat("ab", 32)
	blobX   = &pb.Blob{Digest: digestX, Size: 10 << 20}
	hostX   = &pb.Host{Id: "a", Addr: "10.0.0.1:1"}
)

func many[T any](n int, v T) []T {
	l := make([]T, n)
	for i := range l {
		l[i] = v
	}
	return l
}

// TestRefused has a message for each bound, just beyond it.
func TestRefused(t *testing.T) {
	t.Parallel()
	want := func(change func(w *pb.Want)) *pb.ToScheduler {
		w := &pb.Want{Blob: blobX, Priority: pb.Priority_PRIORITY_PREFETCH}
		change(w)
		return &pb.ToScheduler{Message: &pb.ToScheduler_Want{Want: w}}
	}
	progress := func(p *pb.Progress) *pb.ToScheduler {
		p.Digest = digestX
		return &pb.ToScheduler{Message: &pb.ToScheduler_Progress{Progress: p}}
	}
	inventory := func(i *pb.Inventory) *pb.ToScheduler {
		return &pb.ToScheduler{Message: &pb.ToScheduler_Inventory{Inventory: i}}
	}
	sums := func(d *pb.Digests) *pb.ToScheduler {
		d.Digest = digestX
		return &pb.ToScheduler{Message: &pb.ToScheduler_Digests{Digests: d}}
	}
	publish := func(change func(x *pb.Index)) *pb.ToScheduler {
		x := &pb.Index{Layer: digestX, Version: 1, Id: digestX, DiffId: digestX, Pack: &pb.Blob{Digest: digestX, Size: 10}, Head: 5}
		change(x)
		return &pb.ToScheduler{Message: &pb.ToScheduler_Publish{Publish: &pb.Publish{Index: x}}}
	}
	for name, m := range map[string]*pb.ToScheduler{
		"empty want":        {Message: &pb.ToScheduler_Want{}},
		"no digest":         want(func(w *pb.Want) { w.Blob = &pb.Blob{Size: 1} }),
		"path as digest":    want(func(w *pb.Want) { w.Blob = &pb.Blob{Digest: "sha256:../../etc", Size: 1} }),
		"negative size":     want(func(w *pb.Want) { w.Blob = &pb.Blob{Digest: digestX, Size: -1} }),
		"huge size":         want(func(w *pb.Want) { w.Blob = &pb.Blob{Digest: digestX, Size: p2p.MaxSize + 1} }),
		"no priority":       want(func(w *pb.Want) { w.Priority = 0 }),
		"unknown priority":  want(func(w *pb.Want) { w.Priority = 4 }),
		"negative priority": want(func(w *pb.Want) { w.Priority = -1 }),
		"long registry":     want(func(w *pb.Want) { w.Origin = &pb.Origin{Registry: strings.Repeat("r", 263)} }),
		"odd repository":    want(func(w *pb.Want) { w.Origin = &pb.Origin{Repository: "a\nb"} }),
		"long token":        want(func(w *pb.Want) { w.Origin = &pb.Origin{Token: strings.Repeat("r", 64<<10+1)} }),
		"no have":           inventory(&pb.Inventory{Blob: blobX}),
		"short have":        inventory(&pb.Inventory{Blob: blobX, Have: []byte{2, 1}}),
		"have of more":      inventory(&pb.Inventory{Blob: blobX, Have: []byte{2, 1, 0, 0, 0, 0, 1}}),
		"have of bad blob":  inventory(&pb.Inventory{Blob: &pb.Blob{Digest: digestX, Size: -5}, Have: []byte{0}}),
		"piece":             progress(&pb.Progress{Got: []uint32{p2p.MaxPieces}}),
		"pieces":            progress(&pb.Progress{Got: make([]uint32, p2p.MaxPieces+1)}),
		"transfers":         progress(&pb.Progress{From: many(1025, &pb.Transfer{})}),
		"negative transfer": progress(&pb.Progress{From: []*pb.Transfer{{Bytes: -1}}}),
		"negative time":     progress(&pb.Progress{From: []*pb.Transfer{{TookUs: -1}}}),
		"long time":         progress(&pb.Progress{From: []*pb.Transfer{{TookUs: 1 << 62}}}),
		"unknown failure":   progress(&pb.Progress{From: []*pb.Transfer{{Failed: 7}}}),
		"odd parent":        progress(&pb.Progress{From: []*pb.Transfer{{Parent: "a b"}}}),
		"half a sum":        sums(&pb.Digests{Sums: make([]byte, 33)}),
		"sums behind":       sums(&pb.Digests{First: p2p.MaxPieces - 1, Sums: make([]byte, 64)}),
		"sums far behind":   sums(&pb.Digests{First: 1 << 31, Sums: make([]byte, 32)}),
		"short sum":         {Message: &pb.ToScheduler_Wrong{Wrong: &pb.Wrong{Digest: digestX, Parent: "a", Got: make([]byte, 31)}}},
		"long sum":          {Message: &pb.ToScheduler_Wrong{Wrong: &pb.Wrong{Digest: digestX, Parent: "a", Got: make([]byte, 33)}}},
		"nobody's sum":      {Message: &pb.ToScheduler_Wrong{Wrong: &pb.Wrong{Digest: digestX, Got: make([]byte, 32)}}},
		"no content":        {Message: &pb.ToScheduler_Content{Content: &pb.Content{Digest: digestX}}},
		"much content":      {Message: &pb.ToScheduler_Content{Content: &pb.Content{Digest: digestX, Data: make([]byte, 129)}}},
		"long host":         {Message: &pb.ToScheduler_Checked{Checked: &pb.Checked{Digest: digestX, Parent: strings.Repeat("h", 129)}}},
		"empty publish":     {Message: &pb.ToScheduler_Publish{}},
		"index beyond pack": publish(func(x *pb.Index) { x.Head = 11 }),
		"index of no layer": publish(func(x *pb.Index) { x.Layer = "" }),
		"index of no tar":   publish(func(x *pb.Index) { x.DiffId = "" }),
		"version":           publish(func(x *pb.Index) { x.Version = 1 << 20 }),
		"long signature":    publish(func(x *pb.Index) { x.Signature = make([]byte, 1<<10+1) }),
		"many layers":       {Message: &pb.ToScheduler_Lookup{Lookup: &pb.Lookup{Layers: many(257, digestX)}}},
		"odd layer":         {Message: &pb.ToScheduler_Lookup{Lookup: &pb.Lookup{Layers: []string{"x"}}}},
		"empty learn":       {Message: &pb.ToScheduler_Learn{}},
		"odd runs":          {Message: &pb.ToScheduler_Learn{Learn: &pb.Learn{Profile: &pb.Profile{Layer: digestX, Index: digestX, Runs: []byte{1, 1}}}}},
		"no image":          {Message: &pb.ToScheduler_Recall{Recall: &pb.Recall{Layer: digestX}}},
		"long distrust":     {Message: &pb.ToScheduler_Distrust{Distrust: &pb.Distrust{Layer: digestX, Id: digestX, Reason: strings.Repeat("r", 513)}}},
		"many containers":   {Message: &pb.ToScheduler_Distrust{Distrust: &pb.Distrust{Layer: digestX, Id: digestX, Containers: many(65, "c")}}},
		"long container":    {Message: &pb.ToScheduler_Distrust{Distrust: &pb.Distrust{Layer: digestX, Id: digestX, Containers: []string{strings.Repeat("c", 257)}}}},
		"odd container":     {Message: &pb.ToScheduler_Distrust{Distrust: &pb.Distrust{Layer: digestX, Id: digestX, Containers: []string{"a\nb"}}}},
	} {
		if got, err := new(reader).fromHost(m); !errors.Is(err, p2p.ErrInvalid) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, m := range map[string]*pb.ToHost{
		"parents":                  {Message: &pb.ToHost_Parents{Parents: &pb.Parents{Digest: digestX, Hosts: many(1025, hostX)}}},
		"stripes":                  {Message: &pb.ToHost_Parents{Parents: &pb.Parents{Digest: digestX, Stripes: many(65, &pb.Parents_Stripe{})}}},
		"stripe":                   {Message: &pb.ToHost_Parents{Parents: &pb.Parents{Digest: digestX, Hosts: many(1, hostX), Stripes: many(1, &pb.Parents_Stripe{Hosts: make([]uint32, 65)})}}},
		"no parent":                {Message: &pb.ToHost_Parents{Parents: &pb.Parents{Digest: digestX, Hosts: many(1, hostX), Stripes: many(1, &pb.Parents_Stripe{Hosts: []uint32{1}})}}},
		"parent":                   {Message: &pb.ToHost_Check{Check: &pb.Check{Digest: digestX, Parent: &pb.Host{Id: "a", Addr: "http://x/"}}}},
		"slots":                    {Message: &pb.ToHost_Check{Check: &pb.Check{Digest: digestX, Parent: &pb.Host{Id: "a", Addr: "x:1", Slots: 1025}}}},
		"no address":               {Message: &pb.ToHost_Check{Check: &pb.Check{Digest: digestX, Parent: &pb.Host{Id: "a", Addr: ":1"}}}},
		"long reason":              {Message: &pb.ToHost_Gone{Gone: &pb.Gone{Host: "a", Reason: strings.Repeat("r", 513)}}},
		"lease":                    {Message: &pb.ToHost_Lease{Lease: &pb.Lease{Digest: digestX, ForUs: -1}}},
		"leased piece":             {Message: &pb.ToHost_Lease{Lease: &pb.Lease{Digest: digestX, Pieces: []uint32{1 << 31}}}},
		"more indexes than layers": {Message: &pb.ToHost_Indexes{Indexes: &pb.Indexes{Found: []*pb.Index{{}}}}},
		"odd profile":              {Message: &pb.ToHost_Recalled{Recalled: &pb.Recalled{Layer: digestX, Image: digestX, Profile: &pb.Profile{Layer: digestX, Index: "x"}}}},
		"other digest":             {Message: &pb.ToHost_Ask{Ask: &pb.Ask{Digest: "sha1:00"}}},
	} {
		if got, err := new(reader).fromScheduler(m); !errors.Is(err, p2p.ErrInvalid) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := new(reader).fromHost(&pb.ToScheduler{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a message from the future: %v", err)
	}
}

func FuzzFromHost(f *testing.F) {
	for _, m := range []p2p.Message{
		p2p.Announce{Host: p2p.Host{ID: "a", Addr: "b:1"}, Inventory: []p2p.Inventory{{Blob: p2p.Blob{Digest: digest.Digest(digestX), Size: 5}, Have: p2p.FullHave(1)}}},
		p2p.Want{Blob: p2p.Blob{Digest: digest.Digest(digestX), Size: 5}},
		p2p.Progress{Digest: digest.Digest(digestX), Got: []int{1}, From: []p2p.Transfer{{Parent: "a"}}},
		p2p.Digests{Digest: digest.Digest(digestX), Sums: make([]p2p.Sum, 3)},
	} {
		for _, part := range (writer{}).toScheduler(m) {
			b, err := proto.Marshal(part)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pb.ToScheduler
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		r := &reader{seen: "10.0.0.1", secure: true}
		var msg p2p.Message
		var err error
		if a := m.GetAnnounce(); a != nil {
			msg, err = r.announce(a, true)
		} else {
			msg, err = r.fromHost(&m)
		}
		if err != nil {
			if !errors.Is(err, p2p.ErrInvalid) && !errors.Is(err, ErrUnknown) {
				t.Error(err)
			}
			return
		}
		for _, part := range (writer{secure: true}).toScheduler(msg) { // what was taken can be said again, and is taken again
			again := &reader{secure: true}
			if a := part.GetAnnounce(); a != nil {
				_, err = again.announce(a, a.GetHost() != nil)
			} else {
				_, err = again.fromHost(part)
			}
			if err != nil {
				t.Errorf("%v: %v", msg, err)
			}
		}
	})
}

func FuzzFromScheduler(f *testing.F) {
	for _, m := range []p2p.Message{
		p2p.Parents{Digest: digest.Digest(digestX), Stripes: [][]p2p.Host{{{ID: "a", Addr: "b:1"}}}},
		p2p.Lease{Digest: digest.Digest(digestX), Pieces: []int{1}},
		p2p.Check{Digest: digest.Digest(digestX), Parent: p2p.Host{ID: "a", Addr: "b:1"}},
	} {
		for _, part := range (writer{}).toHost(m) {
			b, err := proto.Marshal(part)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pb.ToHost
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		msg, err := new(reader).fromScheduler(&m)
		if err != nil {
			if !errors.Is(err, p2p.ErrInvalid) && !errors.Is(err, ErrUnknown) {
				t.Error(err)
			}
			return
		}
		for _, part := range (writer{}).toHost(msg) {
			if _, err := new(reader).fromScheduler(part); err != nil {
				t.Errorf("%v: %v", msg, err)
			}
		}
	})
}
