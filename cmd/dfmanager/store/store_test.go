package store_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
)

func each(t *testing.T, test func(t *testing.T, db *store.DB)) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) { test(t, storetest.Open(t, url)) })
}

func TestManyOpenAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				db, err := store.Open(t.Context(), url)
				if err != nil {
					t.Error(err)
					return
				}
				defer db.Close()
				if err := db.Ping(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func TestFirstUserIsCreatedOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		created := make(chan bool, 8)
		var wg sync.WaitGroup
		for range cap(created) {
			db := storetest.Open(t, url)
			wg.Go(func() {
				ok, err := db.FirstUser(t.Context(), store.User{Name: "root", Role: store.Root, Password: "x"})
				if err != nil {
					t.Error(err)
				}
				created <- ok
			})
		}
		wg.Wait()
		close(created)
		n := 0
		for ok := range created {
			if ok {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d managers created the first user", n)
		}
	})
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"sqlite:///var/lib/x.db":             "",
		"sqlite://x.db":                      "absolute path",
		"sqlite:///x.db?mode=ro":             "absolute path",
		"postgres://u:secret@h/db":           "",
		"postgresql://h/db":                  "",
		"postgres://u:secret@h:port/db\x00%": "not a valid",
		"mysql://h/db":                       "must begin with",
		"":                                   "must begin with",
	} {
		err := store.CheckURL(url)
		if got := ""; err != nil && (want == "" || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) || err == nil && want != got {
			t.Errorf("CheckURL(%q): %v, want %q", url, err, want)
		}
	}
}

func TestDatabaseOfANewerProgramIsRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		db := storetest.Open(t, url)
		if err := db.SetVersion(t.Context(), 9999); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), url); err == nil || !strings.Contains(err.Error(), "9999") {
			t.Errorf("opened: %v", err)
		}
	})
}

func TestPathsWithOddNames(t *testing.T) {
	t.Parallel()
	url := "sqlite://" + filepath.Join(t.TempDir(), "a b%20ü", "m+1.db")
	db := storetest.Open(t, url)
	if err := db.Audit(t.Context(), store.By{Actor: "a"}, "x", "y", "z"); err != nil {
		t.Fatal(err)
	}
	again := storetest.Open(t, url)
	if got, err := again.Entries(t.Context(), store.Page{Limit: 9}); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestReadsWaitForARestart(t *testing.T) {
	t.Parallel()
	server := storetest.NewPostgres(t)
	db := storetest.Open(t, server.Database(t))
	u, err := db.CreateUser(t.Context(), store.By{Actor: "a"}, store.User{Name: "u", Role: store.Root})
	if err != nil {
		t.Fatal(err)
	}
	for name, stop := range map[string]func() error{"stopped": server.Stop, "killed": server.Kill} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := db.CreateUser(t.Context(), store.By{Actor: "a"}, store.User{Name: name, Role: store.Root}); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: a change gave %v", name, err)
		}
		read := make(chan error, 1)
		go func() {
			_, err := db.User(context.Background(), u.ID)
			read <- err
		}()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if err := <-read; err != nil {
			t.Errorf("%s: a read gave %v", name, err)
		}
		if _, err := db.CreateUser(t.Context(), store.By{Actor: "a"}, store.User{Name: name, Role: store.Root}); err != nil {
			t.Errorf("%s: a change afterwards gave %v", name, err)
		}
	}
}

func TestReadGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	server := storetest.NewPostgres(t)
	db := storetest.Open(t, server.Database(t))
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := db.User(ctx, 1); err == nil {
		t.Error("it read from a database that is gone")
	}
}
