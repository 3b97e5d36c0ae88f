package daemonset

import "testing"

// TestServices holds that nothing but addresses of services is replaced.
func TestServices(t *testing.T) {
	t.Setenv("DF_MANAGER_SERVICE_HOST", "10.0.0.1")
	t.Setenv("word", "replaced")
	for text, want := range map[string]string{
		`manager = "${DF_MANAGER_SERVICE_HOST}:65003"`: `manager = "10.0.0.1:65003"`,
		`manager = "${NONE_SERVICE_HOST}:65003"`:       `manager = "${NONE_SERVICE_HOST}:65003"`,
		`password = "p$word"`:                          `password = "p$word"`,
		`password = "a$$b${word}$"`:                    `password = "a$$b${word}$"`,
		`password = "$DF_MANAGER_SERVICE_HOST"`:        `password = "$DF_MANAGER_SERVICE_HOST"`,
		`password = "${${DF_MANAGER_SERVICE_HOST}"`:    `password = "${10.0.0.1"`,
	} {
		if got := services(text); got != want {
			t.Errorf("%s became %s, want %s", text, got, want)
		}
	}
}
