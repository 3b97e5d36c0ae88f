package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

// TestImageService pulls a private image with a pull secret through the CRI image service,
// as a kubelet does: the image is lazy, and stays readable when the daemon was killed.
func TestImageService(t *testing.T) {
	for name, old := range map[string]bool{"containerd 2": false, "containerd 1.6": true} {
		t.Run(name, func(t *testing.T) { imageService(t, old) })
	}
}

func imageService(t *testing.T, old bool) {
	dir := t.TempDir()
	socket, below := filepath.Join(dir, "i.sock"), filepath.Join(dir, "c.sock")
	n := start(t, options{old: old, config: fmt.Sprintf("[cri]\nlisten = %q\nendpoint = %q\n", socket, below)})
	n.must(os.Symlink(n.c.Socket, below))
	tars := [][]byte{program(t), data(t, 1, "data/a", 20, 6<<20), data(t, 2, "data/b", 20, 6<<20)}
	ref := n.push(image(t, "/data", tars, imagetest.EStargz, imagetest.Gzip, imagetest.EStargz), "private")
	want := goprogOutput(t, extract(t, tars...)+"/data")
	k := must(n.c.CRIWith(socket))(t)
	defer k.Close()
	n.must(k.Pull(n.ctx, n.reg.Host+"/pause:1"))
	n.close("kubelet", "its pull secret")
	pull := func(auth *cri.AuthConfig) error {
		_, err := k.PullImage(n.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: auth})
		return err
	}
	for _, auth := range []*cri.AuthConfig{nil, {Username: "kubelet", Password: "another one"}} {
		if err := pull(auth); err == nil {
			t.Fatal("the image is pulled without the secret")
		}
	}
	n.must(pull(&cri.AuthConfig{Username: "kubelet", Password: "its pull secret"}))
	if s := n.states(); s["lazy"]+s["filled"] == 0 {
		t.Errorf("nothing is lazy after the pull: %v", s)
	}
	images := must(k.ListImages(n.ctx, &cri.ListImagesRequest{}))(t)
	if !strings.Contains(fmt.Sprint(images.GetImages()), ref) {
		t.Errorf("%s is not in %v", ref, images)
	}
	if _, err := k.ImageFsInfo(n.ctx, &cri.ImageFsInfoRequest{}); err != nil {
		t.Error(err)
	}
	// What was learned is in the keeper's memory, and on no disk.
	n.must(n.d.Kill())
	n.must(n.d.Start(n.ctx))
	n.connected()
	n.podRuns(k, "private", ref, 0, want)
	n.must(n.d.Complete(n.ctx, time.Minute))
	if _, err := k.RemoveImage(n.ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
		t.Error(err)
	}
	n.must(noSecret(n.SnapshotterRoot(), "its pull secret"))
}

// close has the registry let in one user only.
func (n *node) close(user, password string) {
	n.Helper()
	hash := must(bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost))(n.T)
	path := n.Path("htpasswd")
	n.must(os.WriteFile(path, fmt.Appendf(nil, "%s:%s\n", user, hash), 0o600))
	n.must(n.reg.Restart(n.ctx, fmt.Sprintf("auth: {htpasswd: {realm: lab, path: %q}}\n", path)))
}

// noSecret looks for a secret in the files below a folder.
func noSecret(dir, secret string) error {
	return filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (path == filepath.Join(dir, "m") || path == filepath.Join(dir, "n")) {
			return filepath.SkipDir
		}
		if !e.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), secret) {
			err = fmt.Errorf("the secret is in %s", path)
		}
		return err
	})
}
