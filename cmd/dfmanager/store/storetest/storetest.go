// Package storetest gives tests databases: SQLite files, and a PostgreSQL
// server of their own, which they may kill.
package storetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Each runs a test on a database of each kind.
func Each(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, SQLite(t))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, Postgres(t).Database(t))
	})
}

// SQLite returns the URL of a database that is not there yet.
func SQLite(t testing.TB) string { return "sqlite://" + filepath.Join(t.TempDir(), "manager.db") }

// Open opens a database until the test ends.
func Open(t testing.TB, url string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// Server is a PostgreSQL server.
type Server struct {
	bin, dir string
	port     int
	pid      int        // 0: it does not run
	ended    chan error // how it did
	log      bytes.Buffer
	names    atomic.Int64
}

var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Postgres returns the server that the tests of a package share, which Main
// stops. A test is skipped where PostgreSQL is not installed.
func Postgres(t testing.TB) *Server {
	t.Helper()
	shared.once.Do(func() { shared.server, shared.err = start() })
	if errors.Is(shared.err, errMissing) {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// NewPostgres returns a server for this test alone, to be killed.
func NewPostgres(t testing.TB) *Server {
	t.Helper()
	s, err := start()
	if errors.Is(err, errMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Main runs a package's tests, removes the server they share, and looks for
// goroutines that were left behind; TestMain passes what it returns to os.Exit.
func Main(m *testing.M) int {
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

var errMissing = errors.New("PostgreSQL is not installed (Debian's package postgresql)")

// find returns the folder of the newest PostgreSQL's programs.
func find() (string, error) {
	all, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	newest, dir := 0, ""
	for _, p := range all {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p))))
		if n > newest {
			newest, dir = n, filepath.Dir(p)
		}
	}
	if dir == "" {
		return "", errors.Join(errMissing, err)
	}
	return dir, nil
}

func start() (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin}
	if s.dir, err = os.MkdirTemp("", "dfmanager-postgres-"); err != nil {
		return nil, err
	}
	if err := s.init(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// init makes an empty cluster. The server refuses to be root.
func (s *Server) init() error {
	if as := credential(); as != nil {
		if err := os.Chown(s.dir, int(as.Uid), int(as.Gid)); err != nil {
			return err
		}
	}
	out, err := s.command("initdb", "-D", s.dir+"/data", "-U", "dfmanager", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = ln.Addr().(*net.TCPAddr).Port
	return ln.Close()
}

func credential() *syscall.Credential {
	u, err := user.Lookup("postgres")
	if os.Getuid() != 0 || err != nil {
		return nil
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func (s *Server) command(program string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.bin, program), args...)
	c.Dir = s.dir
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	return c
}

// Start starts it, on the same port each time, and waits until it answers.
func (s *Server) Start() error {
	s.log.Reset()
	cmd := s.command("postgres", "-D", s.dir+"/data", "-k", s.dir, "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=16MB")
	cmd.Stderr = &s.log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // of the thread, which therefore waits for it
	started := make(chan error)
	s.ended = make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.pid = cmd.Process.Pid
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL did not start: %w: %s", err, s.log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends it as `systemctl restart` does: sessions are ended, at once.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

// Kill ends it and all its processes without warning. (They would notice SIGKILL
// of the first one late.)
func (s *Server) Kill() error {
	_ = s.end(syscall.SIGQUIT) // it did not end well
	return nil
}

func (s *Server) end(by syscall.Signal) error {
	if s.pid == 0 {
		return nil
	}
	if err := syscall.Kill(s.pid, by); err != nil {
		return err
	}
	s.pid = 0
	return <-s.ended
}

func (s *Server) remove() error { return errors.Join(s.Kill(), os.RemoveAll(s.dir)) }

func (s *Server) url(database string) string {
	return fmt.Sprintf("postgres://dfmanager@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// Database makes an empty database and returns its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.names.Add(1))
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE DATABASE " + strings.ToLower(name)); err != nil {
		t.Fatal(err)
	}
	return s.url(name)
}
