package console_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

func TestFind(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	r := origintest.New(t, origintest.Options{})
	layer := digest.FromString("layer")
	const kind = "application/vnd.oci.image.manifest.v1+json"
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"digest":%q,"size":6,"mediaType":"x"},"layers":[{"digest":%q,"size":5242880,"mediaType":"x"}]}`, kind, digest.FromString("config"), layer)
	r.Tag("p/app", "v1", r.AddManifest("p/app", kind, []byte(manifest)))
	e.seen.Set(layer, `{"Pieces":5,"Hosts":[{"ID":"node-1","Addr":"192.0.2.1:65002","Have":2},{"ID":"seed-0","Seed":true,"Have":5}]}`)
	operator := e.session("operator")
	image := url.Values{"image": {r.Host() + "/p/app:v1"}, "plain_http": {"yes"}}
	e.shows(e.do("/find", nil, operator), 200, "Find an image", "used once, and not kept")
	e.shows(e.do("/find", image, operator), 200, "2 have", "node-1", "seed-0", "1 of 2", "0 of 2", "5.00 MiB", "192.0.2.1:65002", "/clusters/1/blobs/"+layer.String())
	e.seen.Away(scheduler)
	for say, form := range map[string]url.Values{
		"no such image": {"image": {r.Host() + "/p/app:none"}, "plain_http": {"yes"}}, "no image&#39;s name": {"image": {"no image!"}}, "no such cluster": {"image": image["image"], "cluster_id": {"9"}},
	} {
		e.shows(e.do("/find", form, operator), 400, say)
	}
	for _, a := range []string{"job.create", "find"} {
		if n := e.audited(a + " " + image.Get("image")); n != 0 {
			t.Errorf("looking for an image is noted as %s", a)
		}
	}
}
