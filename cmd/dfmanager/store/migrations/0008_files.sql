ALTER TABLE jobs ADD COLUMN file TEXT NOT NULL DEFAULT '';       -- JSON: what tells it from others of its URL; '' : it is none
ALTER TABLE schedules ADD COLUMN file TEXT NOT NULL DEFAULT '';
ALTER TABLE schedules ADD COLUMN kind TEXT NOT NULL DEFAULT 'image';
