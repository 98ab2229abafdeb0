using System;
using Microsoft.EntityFrameworkCore.Migrations;

#nullable disable

namespace Espalier.Runs.Migrations.Sqlite;

/// <inheritdoc />
public partial class First : Migration
{
    /// <inheritdoc />
    protected override void Up(MigrationBuilder migrationBuilder)
    {
        migrationBuilder.CreateTable(
            name: "runs",
            columns: table => new
            {
                Id = table.Column<string>(type: "TEXT", maxLength: 32, nullable: false),
                Command = table.Column<string>(type: "TEXT", nullable: false),
                Title = table.Column<string>(type: "TEXT", nullable: false),
                Model = table.Column<string>(type: "TEXT", nullable: false),
                Plan = table.Column<string>(type: "TEXT", nullable: false),
                Words = table.Column<string>(type: "TEXT", nullable: false),
                WorkingFolder = table.Column<string>(type: "TEXT", nullable: false),
                Version = table.Column<string>(type: "TEXT", nullable: false),
                Machine = table.Column<string>(type: "TEXT", nullable: false),
                Seed = table.Column<long>(type: "INTEGER", nullable: true),
                State = table.Column<string>(type: "TEXT", maxLength: 16, nullable: false),
                Started = table.Column<DateTime>(type: "TEXT", nullable: false),
                Ended = table.Column<DateTime>(type: "TEXT", nullable: true),
                ProcessId = table.Column<int>(type: "INTEGER", nullable: false),
                ProcessMark = table.Column<string>(type: "TEXT", nullable: false),
                Heartbeat = table.Column<DateTime>(type: "TEXT", nullable: false),
                ExitCode = table.Column<int>(type: "INTEGER", nullable: true),
                Outcome = table.Column<string>(type: "TEXT", nullable: false),
                Error = table.Column<string>(type: "TEXT", nullable: false),
                Folder = table.Column<string>(type: "TEXT", nullable: false),
                ResumedFrom = table.Column<string>(type: "TEXT", nullable: false),
                Progress = table.Column<double>(type: "REAL", nullable: true),
                Doing = table.Column<string>(type: "TEXT", nullable: false)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_runs", x => x.Id);
            });

        migrationBuilder.CreateTable(
            name: "artefacts",
            columns: table => new
            {
                RunId = table.Column<string>(type: "TEXT", nullable: false),
                Path = table.Column<string>(type: "TEXT", nullable: false),
                Name = table.Column<string>(type: "TEXT", nullable: false),
                Kind = table.Column<string>(type: "TEXT", nullable: false),
                Bytes = table.Column<long>(type: "INTEGER", nullable: false)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_artefacts", x => new { x.RunId, x.Path });
                table.ForeignKey(
                    name: "FK_artefacts_runs_RunId",
                    column: x => x.RunId,
                    principalTable: "runs",
                    principalColumn: "Id",
                    onDelete: ReferentialAction.Cascade);
            });

        migrationBuilder.CreateTable(
            name: "log",
            columns: table => new
            {
                Id = table.Column<long>(type: "INTEGER", nullable: false)
                    .Annotation("Sqlite:Autoincrement", true),
                RunId = table.Column<string>(type: "TEXT", nullable: false),
                Time = table.Column<DateTime>(type: "TEXT", nullable: false),
                Level = table.Column<string>(type: "TEXT", nullable: false),
                Text = table.Column<string>(type: "TEXT", nullable: false)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_log", x => x.Id);
                table.ForeignKey(
                    name: "FK_log_runs_RunId",
                    column: x => x.RunId,
                    principalTable: "runs",
                    principalColumn: "Id",
                    onDelete: ReferentialAction.Cascade);
            });

        migrationBuilder.CreateTable(
            name: "metrics",
            columns: table => new
            {
                Id = table.Column<long>(type: "INTEGER", nullable: false)
                    .Annotation("Sqlite:Autoincrement", true),
                RunId = table.Column<string>(type: "TEXT", nullable: false),
                Name = table.Column<string>(type: "TEXT", nullable: false),
                Step = table.Column<long>(type: "INTEGER", nullable: false),
                Time = table.Column<DateTime>(type: "TEXT", nullable: false),
                Value = table.Column<double>(type: "REAL", nullable: true)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_metrics", x => x.Id);
                table.ForeignKey(
                    name: "FK_metrics_runs_RunId",
                    column: x => x.RunId,
                    principalTable: "runs",
                    principalColumn: "Id",
                    onDelete: ReferentialAction.Cascade);
            });

        migrationBuilder.CreateTable(
            name: "tags",
            columns: table => new
            {
                RunId = table.Column<string>(type: "TEXT", nullable: false),
                Tag = table.Column<string>(type: "TEXT", nullable: false)
            },
            constraints: table =>
            {
                table.PrimaryKey("PK_tags", x => new { x.RunId, x.Tag });
                table.ForeignKey(
                    name: "FK_tags_runs_RunId",
                    column: x => x.RunId,
                    principalTable: "runs",
                    principalColumn: "Id",
                    onDelete: ReferentialAction.Cascade);
            });

        migrationBuilder.CreateIndex(
            name: "IX_log_RunId_Id",
            table: "log",
            columns: new[] { "RunId", "Id" });

        migrationBuilder.CreateIndex(
            name: "IX_metrics_RunId_Name_Id",
            table: "metrics",
            columns: new[] { "RunId", "Name", "Id" });

        migrationBuilder.CreateIndex(
            name: "IX_runs_Started",
            table: "runs",
            column: "Started");

        migrationBuilder.CreateIndex(
            name: "IX_runs_State",
            table: "runs",
            column: "State");

        migrationBuilder.CreateIndex(
            name: "IX_tags_Tag",
            table: "tags",
            column: "Tag");
    }

    /// <inheritdoc />
    protected override void Down(MigrationBuilder migrationBuilder)
    {
        migrationBuilder.DropTable(
            name: "artefacts");

        migrationBuilder.DropTable(
            name: "log");

        migrationBuilder.DropTable(
            name: "metrics");

        migrationBuilder.DropTable(
            name: "tags");

        migrationBuilder.DropTable(
            name: "runs");
    }
}
