package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// Diff shows a change as patch does.
func (c Change) Diff() (string, error) {
	from, to := c.Path, c.Path
	if c.Old == nil {
		from = "/dev/null"
	}
	if c.New == nil {
		to = "/dev/null"
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(c.Old), B: lines(c.New), FromFile: from, ToFile: to, Context: 2,
	})
}

func lines(text []byte) []string {
	all := strings.SplitAfter(string(text), "\n")
	if last := len(all) - 1; all[last] == "" {
		return all[:last]
	} else if last >= 0 {
		all[last] += "\n"
	}
	return all
}

// record is what was done to a file.
type record struct {
	Path   string `json:"path"`
	Wrote  string `json:"wrote"`            // SHA-256 of what it was given
	Backup string `json:"backup,omitempty"` // file in the state's folder with what it had; "": it was not there
	Unit   Unit   `json:"unit"`
}

func (c Config) journal() string { return filepath.Join(c.State, "journal.json") }

func (c Config) records() (all []record, err error) {
	text, err := os.ReadFile(c.journal())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	return all, err
}

// free returns a name for a backup that no other has.
func (c Config) free(path string) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("%03d-%s", i, filepath.Base(path))
		if !exists(filepath.Join(c.State, name)) {
			return name
		}
	}
}

func (c Config) save(all []record) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return daemon.WriteFile(c.journal(), append(text, '\n'), 0o600)
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// Apply writes what a plan says, with a backup of what there was, and looks at
// the result. If that is not what it should be, everything is put back.
func (c Config) Apply(ctx context.Context, p *Plan) (err error) {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return err
	}
	before, err := c.records()
	if err != nil {
		return err
	}
	all := slices.Clone(before)
	var written []Change
	defer func() {
		if err == nil {
			return
		}
		var failed error
		for _, ch := range slices.Backward(written) {
			failed = errors.Join(failed, restore(ch.Path, ch.Old))
		}
		if failed == nil { // else Undo can try again
			failed = c.forget(all[len(before):])
		}
		err = errors.Join(err, failed)
	}()
	for _, ch := range p.Changes {
		r := record{Path: ch.Path, Wrote: sum(ch.New)}
		if len(p.Units) > 0 {
			r.Unit = p.Units[0]
		}
		if ch.Old != nil {
			r.Backup = c.free(ch.Path)
			if err := daemon.WriteFile(filepath.Join(c.State, r.Backup), ch.Old, 0o600); err != nil {
				return err
			}
		}
		all = append(all, r)
		if err := c.save(all); err != nil { // before the file: who is interrupted can undo
			return err
		}
		written = append(written, ch)
		if err := restore(ch.Path, ch.New); err != nil {
			return err
		}
	}
	for _, verify := range p.verify {
		if err := verify(ctx); err != nil {
			return fmt.Errorf("put back, because afterwards %w", err)
		}
	}
	return nil
}

// Undo plans to put back what Apply has changed for some runtimes, latest first.
// Files that others have changed since are left as they are.
func (c Config) Undo(runtimes []Runtime) (*Plan, error) {
	all, err := c.records()
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	stuck := map[string][]record{}
	later := map[string]int{} // path: its change in the plan
	for _, r := range slices.Backward(all) {
		if !slices.ContainsFunc(runtimes, r.of) {
			continue
		}
		now, err := os.ReadFile(r.Path)
		if i, ok := later[r.Path]; ok {
			now, err = p.Changes[i].New, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		old, err := c.held(r)
		if err != nil {
			return nil, err
		}
		if r.Backup == "" && now == nil || r.Backup != "" && string(now) == string(old) {
			// It was never written, or somebody has done this, and with it what came later.
			p.undone = append(append(p.undone, r), stuck[r.Path]...)
			delete(stuck, r.Path)
			continue
		}
		if stuck[r.Path] != nil || sum(now) != r.Wrote {
			stuck[r.Path] = append(stuck[r.Path], r)
			continue
		}
		if i, ok := later[r.Path]; ok {
			p.Changes[i].New = old
		} else {
			later[r.Path] = len(p.Changes)
			p.Changes = append(p.Changes, Change{r.Path, now, old})
		}
		p.undone = append(p.undone, r)
		if !slices.Contains(p.Units, r.Unit) {
			p.Units = append(p.Units, r.Unit)
		}
	}
	for _, path := range sorted(stuck) {
		p.note("%s was changed since and is left as it is; what it held before is in %s", path, c.backup(stuck[path][0]))
	}
	return p, nil
}

// of reports whether it is about a runtime.
func (r record) of(rt Runtime) bool {
	return r.Unit.Name == map[Runtime]string{Containerd: "containerd", Docker: "docker", CRIO: "crio"}[rt]
}

// held returns what a file held before, nil if it was not there.
func (c Config) held(r record) ([]byte, error) {
	if r.Backup == "" {
		return nil, nil
	}
	return os.ReadFile(filepath.Join(c.State, r.Backup))
}

func (c Config) backup(r record) string {
	if r.Backup == "" {
		return "no file: it did not exist"
	}
	return filepath.Join(c.State, r.Backup)
}

// Revert does what Undo has planned, and forgets it, and what was undone by others.
func (c Config) Revert(p *Plan) error {
	for _, ch := range p.Changes {
		if err := restore(ch.Path, ch.New); err != nil {
			return err
		}
	}
	return c.forget(p.undone)
}

// forget deletes records and their backups. The folder goes with the last one.
func (c Config) forget(gone []record) error {
	if len(gone) == 0 {
		return nil
	}
	all, err := c.records()
	if err != nil {
		return err
	}
	left := slices.DeleteFunc(all, func(r record) bool { return slices.Contains(gone, r) })
	if len(left) > 0 {
		err = c.save(left)
	} else if err = os.Remove(c.journal()); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, r := range gone {
		if r.Backup != "" && err == nil {
			err = os.Remove(c.backup(r))
		}
	}
	_ = os.Remove(c.State) // not if something else is there
	return err
}

// restore gives a file its content, nil for none. Folders that were made for it
// and are empty go with it.
func restore(path string, text []byte) error {
	if text != nil {
		return daemon.WriteFile(path, text, 0o644)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(path)) // not if something else is there
	return nil
}

// Notify makes services take notice, and sees that they run.
func Notify(ctx context.Context, u Unit) error {
	for _, args := range [][]string{{u.Verb, u.Name}, {"is-active", "--quiet", u.Name}} {
		out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
		if err == nil {
			continue
		}
		if says := strings.TrimSpace(string(out)); says != "" {
			err = fmt.Errorf("%w: %s", err, says)
		}
		return fmt.Errorf("systemctl %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
