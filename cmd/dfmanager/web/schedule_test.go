package web_test

import (
	"strings"
	"testing"
)

func TestSchedulesByREST(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	op := e.session("operator")
	r := e.want(201, e.do("POST", "/api/v1/schedules", `{"image":"nginx:1","platforms":["linux/amd64"],"cron":"30  4 * * 1-5","registry_user":"u","registry_password":"very-secret"}`, op))
	for _, want := range []string{`"cron":"30 4 * * 1-5"`, `"image":"docker.io/library/nginx:1"`, `"created_by":"operator"`, `T04:30:00Z"`, `"last_job_id":0`} {
		if !strings.Contains(r.text, want) {
			t.Errorf("%s is not in %s", want, r.text)
		}
	}
	for body, field := range map[string]string{
		`{"image":"nginx"}`: "cron", `{"image":"nginx","cron":"30 4 * *"}`: "cron", `{"image":"nginx","cron":"61 4 * * *"}`: "cron", `{"image":"nginx","cron":"0 0 30 2 *"}`: "cron",
		`{"image":"nginx","cron":"0 30 4 * * *"}`: "cron", `{"image":"A B","cron":"@daily"}`: "image", `{"image":"nginx","cron":"@daily","cluster_id":9}`: "cluster_id",
		`{"image":"nginx","cron":"@daily","registry_token":"x"}`: "registry_token",
	} {
		if r := e.do("POST", "/api/v1/schedules", body, op); r.status != 400 || !strings.Contains(r.text, `"`+field+`":`) {
			t.Errorf("%s: %d %s", body, r.status, r.text)
		}
	}
	if text := e.want(200, e.do("GET", "/api/v1/schedules", "", e.session("guest"))).text; strings.Count(text, `"cron"`) != 1 || strings.Contains(text, "very-secret") {
		t.Errorf("%s", text)
	}
	e.want(204, e.do("DELETE", "/api/v1/schedules/1", "", op))
	e.want(404, e.do("DELETE", "/api/v1/schedules/1", "", op))
	log := e.want(200, e.do("GET", "/api/v1/audit", "", e.session("root"))).text
	if !strings.Contains(log, "schedule.create") || !strings.Contains(log, "schedule.delete") || strings.Contains(log, "very-secret") {
		t.Errorf("%s", log)
	}
}
