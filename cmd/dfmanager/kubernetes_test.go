package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store/storetest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// TestSecret writes join tokens to what stands for Kubernetes' API.
func TestSecret(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, url string) {
		var got corev1.Secret
		var asked []string
		status := http.StatusOK
		api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = []string{r.Method, r.URL.String(), r.Header.Get("Authorization"), r.Header.Get("Content-Type")}
			body, _ := io.ReadAll(r.Body)
			dec := json.NewDecoder(strings.NewReader(string(body)))
			dec.DisallowUnknownFields()
			got = corev1.Secret{}
			if err := dec.Decode(&got); err != nil {
				t.Error(err)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "why")
		}))
		defer api.Close()
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte("pod's\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		k := &kube{server: api.URL, namespace: "df", token: token, client: api.Client()}
		c := testConfig(url)
		start(t, c, rootPassword)
		if err := writeSecret(t.Context(), c, k, "join", time.Hour); err != nil {
			t.Fatal(err)
		}
		want := []string{"PATCH", "/api/v1/namespaces/df/secrets/join?fieldManager=dfmanager&force=true", "Bearer pod's", "application/apply-patch+yaml"}
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Error(diff)
		}
		if got.Name != "join" || got.Namespace != "df" || len(got.StringData) != 3 {
			t.Errorf("the secret is %+v", got)
		}
		for _, role := range tokenRoles {
			if !strings.HasPrefix(got.StringData[string(role)], manage.NewToken(nil).Text()[:3]) {
				t.Errorf("%s's token is %q", role, got.StringData[string(role)])
			}
		}
		status = http.StatusForbidden
		if err := writeSecret(t.Context(), c, k, "join", time.Hour); err == nil || !strings.Contains(err.Error(), "403 Forbidden: why") {
			t.Errorf("refused: %v", err)
		}
	})
}
