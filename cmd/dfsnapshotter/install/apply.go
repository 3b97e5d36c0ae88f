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
		for _, ch := range slices.Backward(written) {
			err = errors.Join(err, restore(ch.Path, ch.Old))
		}
		err = errors.Join(err, c.save(before))
	}()
	for i, ch := range p.Changes {
		r := record{Path: ch.Path, Wrote: sum(ch.New)}
		if len(p.Units) > 0 {
			r.Unit = p.Units[0]
		}
		if ch.Old != nil {
			r.Backup = fmt.Sprintf("%03d-%s", len(before)+i, filepath.Base(ch.Path))
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
	stuck := map[string]bool{}
	later := map[string]int{} // path: its change in the plan
	for _, r := range slices.Backward(all) {
		if !slices.ContainsFunc(runtimes, r.of) || stuck[r.Path] {
			continue
		}
		now, err := os.ReadFile(r.Path)
		if i, ok := later[r.Path]; ok {
			now, err = p.Changes[i].New, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		var old []byte
		if r.Backup != "" {
			if old, err = os.ReadFile(filepath.Join(c.State, r.Backup)); err != nil {
				return nil, err
			}
		}
		if r.Backup == "" && now == nil || r.Backup != "" && string(now) == string(old) {
			continue // it was never written, or somebody has done this
		}
		if sum(now) != r.Wrote {
			stuck[r.Path] = true
			p.note("%s was changed since and is left as it is; what it held before is in %s", r.Path, c.backup(r))
			continue
		}
		if i, ok := later[r.Path]; ok {
			p.Changes[i].New = old
		} else {
			later[r.Path] = len(p.Changes)
			p.Changes = append(p.Changes, Change{r.Path, now, old})
		}
		if !slices.Contains(p.Units, r.Unit) {
			p.Units = append(p.Units, r.Unit)
		}
	}
	return p, nil
}

// of reports whether it is about a runtime.
func (r record) of(rt Runtime) bool {
	return r.Unit.Name == map[Runtime]string{Containerd: "containerd", Docker: "docker", CRIO: "crio"}[rt]
}

func (c Config) backup(r record) string {
	if r.Backup == "" {
		return "no file: it did not exist"
	}
	return filepath.Join(c.State, r.Backup)
}

// Revert does what Undo has planned, and forgets it.
func (c Config) Revert(p *Plan) error {
	all, err := c.records()
	if err != nil {
		return err
	}
	for _, ch := range p.Changes {
		if err := restore(ch.Path, ch.New); err != nil {
			return err
		}
		for _, r := range all {
			if r.Path == ch.Path && r.Backup != "" {
				if err := os.Remove(filepath.Join(c.State, r.Backup)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
		all = slices.DeleteFunc(all, func(r record) bool { return r.Path == ch.Path })
	}
	if len(all) > 0 {
		return c.save(all)
	}
	return os.RemoveAll(c.State)
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
		if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
