package managed

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// said is a log that can be waited for.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
	news chan struct{}
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *said) until(t *testing.T, what string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		text := s.text.String()
		s.mu.Unlock()
		if strings.Contains(text, what) {
			return
		}
		select {
		case <-s.news:
		case <-late:
			t.Fatalf("the log does not say %q: %s", what, text)
		}
	}
}

// A node that cannot join says what is missing, and runs.
func TestWhatIsMissingIsSaid(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad, good := filepath.Join(dir, "bad"), filepath.Join(dir, "good")
	for path, text := range map[string]string{bad: "nonsense", good: manage.NewToken([]byte("a CA")).Text()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for token, want := range map[string]string{
		"/no/token": "dfmanager token create --role seed", bad: "not a join token", good: "connection refused",
	} {
		log := &said{news: make(chan struct{}, 1)}
		n, err := Open(Config{
			Manager: "127.0.0.1:1", TokenFile: token, Dir: filepath.Join(t.TempDir(), "manager"),
			Name: wire.Name{ID: "n", Role: wire.RoleSeed}, Log: slog.New(slog.NewTextHandler(log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		n.Start(":1", func(manage.Orders) { t.Error("somebody commands") }, nil)
		log.until(t, want)
		n.Close()
	}
}

func TestOrdersThatCannotBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := &Node{Config: Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}}
	want := manage.Orders{Schedulers: []string{"s:8002"}}
	if err := n.save(want); err != nil {
		t.Fatal(err)
	}
	if got, err := n.load(); err != nil || len(got.Schedulers) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, ordersFile), []byte(`{"schedulers":["s:80`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := n.load(); err != nil || len(got.Schedulers) != 0 {
		t.Errorf("damaged: %+v, %v", got, err)
	}
}

func TestRenewAt(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	for i := range 7 {
		from := time.Unix(1_800_000_000+int64(i), 0)
		if at := renewAt(from, from.Add(week)).Sub(from); at < week/3-time.Minute || at > week*4/10 {
			t.Errorf("it is renewed after %v", at)
		}
	}
}
