package manage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage/internal/pb"
)

func TestToken(t *testing.T) {
	t.Parallel()
	k := NewToken([]byte("a CA"))
	got, err := ParseToken(" " + k.Text() + "\n")
	if err != nil || got != k || got.CA != CAOf([]byte("a CA")) {
		t.Errorf("%v, %v", got, err)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); strings.Contains(text, k.Secret) {
		t.Errorf("it shows its secret: %s", text)
	}
	if strings.Contains(k.Hash(), k.Secret) || k.Hash() == NewToken([]byte("a CA")).Hash() {
		t.Error("hash")
	}
	for _, bad := range []string{"", "dfj_", k.Text()[1:], strings.ReplaceAll(k.Text(), ".", ""), k.Text() + "x", "dfj_short." + strings.Split(k.Text(), ".")[1]} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrToken) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken(nil).Text())
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ParseToken(text); err == nil {
			if again, err := ParseToken(k.Text()); err != nil || again != k {
				t.Errorf("%q: %v, %v", text, again, err)
			}
		}
	})
}

func TestOrders(t *testing.T) {
	t.Parallel()
	want := Orders{Schedulers: []string{"s:8002"}, Blocked: []p2p.HostID{"bad"}, Limits: Limits{1, 2, 3, 4}}
	got, err := orders(want.proto())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for what, m := range map[string]*pb.Orders{
		"many schedulers": {Schedulers: make([]string, maxSchedulers+1)},
		"many blocked":    {Blocked: make([]string, maxBlocked+1)},
		"a long one":      {Schedulers: []string{strings.Repeat("x", maxText+1)}},
		"a line":          {Schedulers: []string{"a\nb"}},
		"no name":         {Blocked: []string{""}},
		"negative":        {Limits: &pb.Limits{Upload: -1}},
		"many requests":   {Limits: &pb.Limits{OriginRequests: maxRequests + 1}},
	} {
		if _, err := orders(m); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := hello(&pb.Hello{Place: &pb.Place{Location: "a\x00"}}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	want := Load{Span: 10 * time.Second, Moved: Traffic{1, 2, 3, 4}, Kept: 5, Uploads: 6, Waiting: 7}
	got, err := load(want.proto())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for what, change := range map[string]func(*pb.Load){
		"no time":        func(m *pb.Load) { m.SpanMs = 0 },
		"all time":       func(m *pb.Load) { m.SpanMs = math.MaxInt64 },
		"less than none": func(m *pb.Load) { m.Store = -1 },
		"too much":       func(m *pb.Load) { m.Sent = math.MaxInt64 },
		"a negative sum": func(m *pb.Load) { m.Kept = -1 },
		"many uploads":   func(m *pb.Load) { m.Uploads = math.MaxInt64 },
		"many less":      func(m *pb.Load) { m.Waiting = -1 },
	} {
		m := want.proto()
		change(m)
		if _, err := load(m); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzOrders(f *testing.F) {
	seed, err := proto.Marshal(Orders{Schedulers: []string{"s:8002"}, Blocked: []p2p.HostID{"bad"}, Limits: Limits{1, 2, 3, 4}}.proto())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var m pb.Orders
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		o, err := orders(&m)
		if err != nil {
			return
		}
		again, err := orders(o.proto())
		if diff := cmp.Diff(o, again, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Error(err, diff)
		}
	})
}

// A node that died before it heard the answer asks again with the same key; a new
// certificate replaces key and certificate at once.
func TestFiles(t *testing.T) {
	t.Parallel()
	f := Files(t.TempDir())
	key, _, err := keptKey(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := keptKey(f.Key)
	if err != nil || !bytes.Equal(key, again) {
		t.Errorf("another key: %v", err)
	}
	info, err := os.Stat(f.Key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := write(f, key, &pb.Certificate{Chain: []byte("no certificate")}); err == nil {
		t.Error("what is no certificate was taken")
	}
	if all, err := filepath.Glob(filepath.Dir(f.Key) + "/*"); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	if err := os.WriteFile(f.Key, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keptKey(f.Key); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a damaged key: %v", err)
	}
}
